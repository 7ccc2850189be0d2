"""Every run keeps where its outliers are: the norms that the probe saw, for a few images, in a small file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from harness import attachments, store
from harness.attachments import MOST_BYTES, path_beside, present
from harness.build import build
from harness.data import Images, digits, spread_evenly
from harness.denoiser import Denoiser
from harness.errors import UserError
from harness.latents import plain_codec
from harness.metrics import outliers
from harness.metrics.outliers import BlockNorms
from harness.norm_map_files import NormMapRecorder
from harness.run import Outcome, run
from harness.source import Source
from harness.spec import RaeLatents, RunConfig
from tests.builders import quick_config

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def outcome(place: Path) -> Outcome:
    return run(quick_config(place, "sit", "dsr"))


def _network(config: RunConfig) -> tuple[Denoiser, Source]:
    """A network whose blocks do something, unlike new ones, and what it is shown."""
    assert not isinstance(config.latents, RaeLatents), "no encoder in quick tests"
    torch.manual_seed(0)
    denoiser = build(config)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return denoiser, Source(digits(), plain_codec(config.latents, config.task, torch.device("cpu")))


def test_a_run_publishes_its_norm_maps_beside_the_record(outcome: Outcome) -> None:
    record = outcome.record
    assert record.norm_maps is not None
    path = present(outcome.path, "norms", record.norm_maps)
    assert path == path_beside(outcome.path, "norms")
    assert attachments.attachment_of(path.read_bytes()) == record.norm_maps
    assert store.find(Path(outcome.path).parents[3], record.config) is not None


def test_the_file_holds_images_times_patches_and_registers(outcome: Outcome) -> None:
    held = load_file(path_beside(outcome.path, "norms"))
    levels, depth, count = (0.2, 0.8), 3, 4
    assert {name: (array.shape, array.dtype) for name, array in held.items()} == {
        "images": ((4, 8, 8, 1), np.dtype(np.uint8)),
        "times": ((2,), np.dtype(np.float32)),
        "patches": ((4, 2, depth, 16), np.dtype(np.float16)),
        "registers": ((4, 2, depth, count), np.dtype(np.float16)),
    }
    np.testing.assert_allclose(held["times"], levels, rtol=1e-6)
    np.testing.assert_array_equal(held["images"][..., 0], digits().pixels(spread_evenly(4, 1797))[:, 0])
    np.testing.assert_allclose(np.median(held["patches"], axis=-1), 1, rtol=2e-3)
    denoiser = outcome.record.config.registers.denoiser
    assert denoiser is not None
    has_registers = np.isfinite(held["registers"]).all(axis=(0, 1, 3))
    np.testing.assert_array_equal(has_registers, np.arange(depth) >= denoiser.start_block)


def test_the_maps_are_those_that_the_statistics_tell_of(outcome: Outcome) -> None:
    held = load_file(path_beside(outcome.path, "norms"))
    for statistics in outcome.record.outliers:
        place = (slice(None), (0.2, 0.8).index(statistics.time), statistics.block)
        largest = held["patches"][place].max(axis=-1).astype(np.float64).mean()
        assert largest == pytest.approx(statistics.max_over_median, rel=2e-3)


def test_looking_on_changes_no_statistics_and_needs_no_pass(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "dsr", "protocol.outlier_images=7")
    denoiser, source = _network(config)
    passes: list[int] = []
    denoiser.register_forward_hook(lambda *_: passes.append(1))
    plain = outliers.probe(config, denoiser, source)
    recorder = NormMapRecorder(config, source)
    assert outliers.probe(config, denoiser, source, recorder) == plain
    assert len(passes) == 2 * len(config.protocol.noise_levels)


def test_probed_in_any_batches_the_same_images_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = quick_config(tmp_path, "sit", "dsr", "protocol.outlier_images=7")
    denoiser, source = _network(config)
    written = []
    for at_once in (64, 2):
        monkeypatch.setattr(outliers, "AT_ONCE", at_once)
        recorder = NormMapRecorder(config, source)
        outliers.probe(config, denoiser, source, recorder)
        recorder.write(tmp_path / f"{at_once}.safetensors")
        written.append(load_file(tmp_path / f"{at_once}.safetensors"))
    for name in written[0]:
        np.testing.assert_allclose(written[0][name], written[1][name], rtol=2e-3)


def test_without_noise_levels_there_is_nothing_to_keep(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "none", "protocol.noise_levels=[]")
    assert NormMapRecorder(config, _network(config)[1]).write(tmp_path / "maps.safetensors") is None
    assert not (tmp_path / "maps.safetensors").exists()


def test_norm_maps_that_were_changed_meanwhile_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick_config(tmp_path)

    def full(*_: object) -> None:
        raise UserError("the disk is full", "free some space")

    with monkeypatch.context() as patched:
        patched.setattr("harness.store.append", full)
        with pytest.raises(UserError, match="disk is full"):
            run(config)
    maps = Path(config.execution.runs) / config.run_id / "norm-maps.safetensors"
    whole = maps.read_bytes()
    for changed, words in ((whole[:-1], "its record says"), (whole[:-1] + b"x", "SHA-256"), (None, "is missing")):
        maps.unlink() if changed is None else maps.write_bytes(changed)
        with pytest.raises(UserError, match=words):
            run(config)
        assert not list(Path(config.execution.results).rglob("*.json"))
    maps.write_bytes(whole)
    assert path_beside(run(config).path, "norms").read_bytes() == whole


def test_a_run_without_registers_has_none_in_its_file(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "none", "protocol.outlier_images=3")
    denoiser, source = _network(config)
    recorder = NormMapRecorder(config, source)
    outliers.probe(config, denoiser, source, recorder)
    recorder.write(tmp_path / "maps.safetensors")
    assert load_file(tmp_path / "maps.safetensors")["registers"].shape == (3, 2, 3, 0)


class _Large(Images):
    """As many images of 512 x 512 as there are digits, made when they are looked at."""

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.uint8(7), (len(indices), 3, 512, 512))


@pytest.mark.parametrize(("tokens", "levels", "blocks"), [(256, 5, 28), (4096, 4, 9), (16384, 1, 9)])
def test_at_large_sizes_fewer_blocks_and_times_are_kept(tmp_path: Path, tokens: int, levels: int, blocks: int) -> None:
    config = quick_config(tmp_path, "sit", "none", "protocol.noise_levels=[0.1,0.3,0.5,0.7,0.9]")
    _, source = _network(config)
    recorder = NormMapRecorder(config, replace(source, images=_Large(digits().shards, digits().labels)))
    for time in config.protocol.noise_levels:
        for block in range(28):
            norms = torch.full((4, tokens), float(block))
            recorder(BlockNorms(np.arange(4), time, block, norms, torch.full((4, 2), torch.inf)))
    kept = recorder.write(tmp_path / "maps.safetensors")
    assert kept is not None
    assert kept.size <= MOST_BYTES["norms"]
    tensors = attachments.read_tensors(tmp_path / "maps.safetensors", kept)
    said = json.loads(tensors.metadata["norm maps"])
    assert (said["blocks"][0], said["blocks"][-1], said["depth"]) == (0, 27, 28)
    np.testing.assert_array_equal(tensors.arrays["patches"][0, 0, :, 0], said["blocks"])
    assert tensors.arrays["patches"].shape == (4, levels, blocks, tokens)
    assert len(tensors.arrays["times"]) == levels
    assert np.isnan(tensors.arrays["registers"]).all(), "what is no number is said to be none"
    assert tensors.arrays["images"].shape == (4, 256, 256, 3)
