"""What a configuration costs: counts that agree with what really runs, and absent where nothing is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.bench import Timing
from harness.build import build, guide_config, size_of
from harness.codec import Codec
from harness.cost_bench import cost
from harness.decoders import SIZES, DecoderShape
from harness.latents import plain_codec
from harness.mae_decoder import fresh_decoder
from harness.metrics import cost as counted
from harness.rae import NO_WHITENING, LatentForm
from harness.rae_codec import FrozenEncoder, RaeCodec
from harness.sample import CPU_TILE, Sampled, sample
from harness.spec import Guide, RaeLatents, RunConfig, Task, VaeLatents
from tests.builders import quick_config, sampled
from tests.encoder_builders import small_encoder

torch.set_num_threads(1)


def _value(config: RunConfig, name: str) -> float:
    (found,) = [each.value for each in counted.measurements(config, size_of(config)) if each.name == name]
    return found


def _really(config: RunConfig, guide: Any = None) -> float:
    """Operations of a real sampling; on a CPU images are made in tiles, so that a tile's worth is counted."""
    made_from = sampled(config, build(config))
    with FlopCounterMode(display=False) as counter:
        sample(config, Sampled(made_from.denoiser, made_from.codec, guide), np.arange(CPU_TILE), "float32")
    return float(counter.get_total_flops()) / CPU_TILE / 1e9


@pytest.mark.parametrize(
    ("backbone", "preset", "changes"),
    [
        ("sit", "none", []),
        ("sit", "dsr", ["protocol.guidance.scale=2", "protocol.guidance.interval=[0.3,1]"]),
        ("sit", "register-guidance", []),
        ("jit", "register-guidance", ["protocol.guidance.scale=3", "protocol.guidance.interval=[0.5,1]"]),
        ("dit", "clamp", ["protocol.guidance.scale=1.5"]),
        ("dit", "wide-mlp", []),
    ],
)
def test_an_images_operations_are_those_that_really_happen(
    backbone: str, preset: str, changes: list[str], tmp_path: Path
) -> None:
    """A pass without registers counts without them, and one that guidance leaves out does not count."""
    config = quick_config(tmp_path, backbone, preset, *changes)
    assert _value(config, "gflops_per_image") == pytest.approx(_really(config), rel=1e-9)


def test_a_guide_counts_as_what_it_is(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "denoiser", "protocol.guidance.scale=2")
    guide = Guide(backbone="sit-tiny", network={**config.network, "width": 8, "depth": 1}, weights_sha256="0" * 64)
    guidance = config.protocol.guidance.model_copy(update={"guide": guide})
    guided = config.model_copy(update={"protocol": config.protocol.model_copy(update={"guidance": guidance})})
    weaker = guide_config(guided)
    assert weaker is not None
    counted_gflops = _value(guided, "gflops_per_image")
    assert counted_gflops == pytest.approx(_really(guided, build(weaker)), rel=1e-9)
    assert counted_gflops < 0.7 * _value(config, "gflops_per_image")


def test_an_adaptive_solver_has_no_operations_of_an_image(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "none", "sampler.method=dopri5")
    names = {each.name for each in counted.measurements(config, size_of(config))}
    assert names == {"parameters", "trainable_parameters", "gflops"}


def _vae(folder: Path) -> Codec:
    diffusers = pytest.importorskip("diffusers")
    diffusers.AutoencoderKL(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=16,
    ).save_pretrained(folder, safe_serialization=True)
    task = Task(name="test", channels=3, image_size=16, num_classes=2)
    return plain_codec(VaeLatents(kind="sd-vae", weights=str(folder)), task, torch.device("cpu"))


def _rae(_: Path) -> Codec:
    encoder = small_encoder()
    shape = DecoderShape(**SIZES["tiny"].model_dump(), patch=8, latent_channels=32, tokens=36)
    frozen = FrozenEncoder(encoder, LatentForm(), "digest")
    codec = RaeCodec(frozen, NO_WHITENING, fresh_decoder(shape, 0).eval(), 10, torch.device("cpu"))
    codec.weights_sha256 = "0" * 64
    return codec


@pytest.mark.parametrize("kind", ["sd-vae", "rae"])
def test_a_decoders_operations_are_those_of_one_image_whatever_its_tile(kind: str, tmp_path: Path) -> None:
    codec = {"sd-vae": _vae, "rae": _rae}[kind](tmp_path)
    latents = VaeLatents(kind="sd-vae") if kind == "sd-vae" else RaeLatents(kind="rae", channels=32, patch=8)
    size = 16 if kind == "sd-vae" else 48
    task = Task(name="test", channels=3, image_size=size, num_classes=2)
    config = quick_config(tmp_path).model_copy(update={"latents": latents, "task": task})
    channels, side = latents.shape(task)
    with FlopCounterMode(display=False) as counter:
        codec.decode(torch.randn(64, channels, side, side))
    (found,) = counted.decoding(config, codec)
    assert found.name == "decoder_gflops"
    assert found.value == pytest.approx(counter.get_total_flops() / 64 / 1e9, rel=1e-9)
    assert found.value > 0


@pytest.mark.parametrize("backbone", ["sit", "rae-dit"])
def test_pixels_and_stand_ins_have_no_decoder(backbone: str, tmp_path: Path) -> None:
    config = quick_config(tmp_path, backbone)
    assert counted.decoding(config, sampled(config, build(config)).codec) == []


def test_throughput_counts_the_images_that_were_trained_on(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit")
    assert counted.throughput(config, 4.0).value == 6 * 8 / 4
    longer = quick_config(tmp_path, "sit", "longer", "registers.longer_training.factor=1.5")
    assert counted.throughput(longer, 4.0).value == 9 * 8 / 4


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("Tesla T4", None),
        ("CPU", None),
    ],
)
def test_peaks_are_known_of_whole_named_gpus_alone(name: str, teraflops: float | None) -> None:
    assert counted.peak_teraflops(name) == teraflops


def test_utilisation_is_three_forward_passes_over_the_peak(tmp_path: Path) -> None:
    size = size_of(quick_config(tmp_path))
    (found,) = counted.utilisation(size, 1e6, "NVIDIA H200")
    assert found.value == pytest.approx(3 * size.flops * 1e6 / 989e12)
    assert "989 TFLOP/s" in found.unit
    assert counted.utilisation(size, 1e6, "AMD EPYC 9554 64-Core Processor") == []


def test_a_cost_says_what_was_counted_and_timed_and_no_more(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "register-guidance", "protocol.guidance.scale=2")
    found = cost(config, batch=3, repeats=2)
    assert found.sampling is not None
    assert found.sampling.nfe == _value(config, "nfe")
    assert found.sampling.gflops_per_image == _value(config, "gflops_per_image")
    assert (found.device, found.precision, found.mfu, found.training_memory) == ("CPU", "float32", None, None)
    assert found.shown()["sampling"]["nfe"] == found.sampling.nfe
    assert "forward pass, batch 3" in found.report()
    assert "MFU" not in found.report()
    adaptive = cost(quick_config(tmp_path, "sit", "none", "sampler.method=dopri5"), batch=1, repeats=1)
    assert adaptive.sampling is None
    assert "adaptive solver" in adaptive.report()


def test_a_timing_is_the_median_and_its_quartiles() -> None:
    assert Timing.of([5.0, 1.0, 2.0, 3.0, 4.0]) == Timing(3.0, 2.0, 4.0)
