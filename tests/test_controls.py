"""The paper's controls: what shows that registers are not just more compute, and not just fewer outliers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dsr.clamp import norm_clamp
from dsr.loss_mask import token_weights
from harness import data, registry
from harness.build import build, size_of
from harness.checkpoint import Checkpoints
from harness.denoiser import Denoiser
from harness.errors import UserError
from harness.latents import plain_codec
from harness.registers import LossMask, NormClamp
from harness.resolve import Request, resolve, resolve_network
from harness.sample import sample
from harness.source import open_source
from harness.spec import RaeLatents, RunConfig
from harness.train import Training, train
from tests.builders import quick_config, sampled

torch.set_num_threads(1)


def _trained(config: RunConfig, folder: Path) -> tuple[Training, Denoiser]:
    assert not isinstance(config.latents, RaeLatents), "no encoder in quick tests"
    codec = plain_codec(config.latents, config.task, torch.device("cpu"))
    denoiser = build(config)
    source = open_source(config, data.digits(), codec)
    return train(config, denoiser, source, Checkpoints(folder, "here"), "float32"), denoiser


def _loud(config: RunConfig, seed: int = 1) -> Denoiser:
    """A network of random weights large enough that norms differ from patch to patch."""
    denoiser = build(config)
    torch.manual_seed(seed)
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return denoiser


def _handed_on(denoiser: Denoiser, config: RunConfig) -> list[Tensor]:
    channels, side = config.latents.shape(config.task)
    x = torch.randn(5, channels, side, side, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    with torch.no_grad():
        denoiser(x, torch.full((5,), 0.5), torch.arange(5), lambda _, tokens: seen.append(tokens))
    return seen


def _largest_over_median(patches_NPD: Tensor) -> float:
    norms_NP = patches_NPD.norm(dim=-1)
    return float((norms_NP / norms_NP.quantile(0.5, dim=1, keepdim=True)).max())


@pytest.mark.parametrize("backbone", ["sit", "dit", "jit", "rae-dit-dh"])
def test_clamping_trains_as_none_does_bit_for_bit(backbone: str, tmp_path: Path) -> None:
    config = quick_config(tmp_path, backbone, "clamp", "registers.clamp.above=1")
    ours, clamped = _trained(config, tmp_path / "clamp")
    theirs, plain = _trained(config.without_registers(), tmp_path / "none")
    assert torch.equal(ours.losses, theirs.losses)
    assert clamped.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in clamped.state_dict().items())


@pytest.mark.parametrize("backbone", ["sit", "dit", "jit", "rae-dit-dh"])
def test_clamping_changes_images_only_where_norms_exceed(backbone: str, tmp_path: Path) -> None:
    plain_config = quick_config(tmp_path, backbone)
    weights = _loud(plain_config).state_dict()

    def images(preset: str, *changes: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        config = quick_config(tmp_path, backbone, preset, *changes)
        denoiser = build(config)
        denoiser.load_state_dict(weights)
        return sample(config, sampled(config, denoiser), np.arange(3), "float32")

    plain = images("none")
    np.testing.assert_array_equal(images("clamp", "registers.clamp.above=1e6"), plain)
    assert not np.array_equal(images("clamp", "registers.clamp.above=1.05"), plain)


def test_what_a_clamped_network_hands_on_stays_below(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "clamp", "registers.clamp.above=1.05")
    denoiser = _loud(config)
    free = _handed_on(denoiser.train(), config)
    clamped = _handed_on(denoiser.eval(), config)
    assert all(_largest_over_median(tokens) > 1.1 for tokens in free)
    assert all(_largest_over_median(tokens) <= 1.05 + 1e-5 for tokens in clamped)


def test_clamping_is_its_definition_and_leaves_other_tokens_alone() -> None:
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 9, 4, generator=random) * torch.rand(3, 9, 1, generator=random) * 10
    clamped = norm_clamp(NormClamp(above=1.5), patch_tokens=6)(tokens)
    assert torch.equal(clamped[:, 6:], tokens[:, 6:])
    changed = 0
    for image in range(3):
        norms = [float(tokens[image, patch].norm()) for patch in range(6)]
        most = 1.5 * sorted(norms)[2]
        for patch, norm in enumerate(norms):
            if norm <= most:
                assert torch.equal(clamped[image, patch], tokens[image, patch])
            else:
                torch.testing.assert_close(clamped[image, patch], tokens[image, patch] * most / norm)
                changed += 1
    assert changed > 3
    torch.testing.assert_close(norm_clamp(NormClamp(above=1.5), patch_tokens=6)(clamped), clamped)


def test_an_empty_image_is_clamped_to_itself() -> None:
    assert torch.equal(norm_clamp(NormClamp(), patch_tokens=4)(torch.zeros(2, 4, 3)), torch.zeros(2, 4, 3))


def test_a_clamp_may_be_set_and_is_part_of_the_run(tmp_path: Path) -> None:
    three, five = (quick_config(tmp_path, "sit", "clamp", f"registers.clamp.above={above}") for above in (3, 5))
    assert three.run_id == quick_config(tmp_path, "sit", "clamp").run_id != five.run_id
    with pytest.raises(UserError, match="greater than or equal to 1"):
        quick_config(tmp_path, "sit", "clamp", "registers.clamp.above=0.5")


@pytest.mark.parametrize("name", ["sit-s-2", "sit-xl-2", "dit-b-4", "jit-b-16", "rae-dit-s", "rae-dit-dh-xl"])
def test_longer_training_costs_what_the_papers_registers_cost(name: str) -> None:
    longer, registers = (resolve_network(Request(name, preset)) for preset in ("longer", "denoiser"))
    assert longer.registers.longer_training is not None
    factor = size_of(registers).flops / size_of(longer).flops
    assert longer.registers.longer_training.factor == pytest.approx(factor, rel=0.005)
    spent = longer.registers.training_steps(longer.recipe.steps) * size_of(longer).flops
    assert spent == pytest.approx(registers.recipe.steps * size_of(registers).flops, rel=0.005)


def test_longer_training_takes_more_steps_of_the_same_recipe(tmp_path: Path) -> None:
    """The first of them are those of the matched arm, bit for bit."""
    config = quick_config(tmp_path, "sit", "longer", "registers.longer_training.factor=1.5")
    none = config.without_registers()
    assert config.recipe == none.recipe
    ours, _ = _trained(config, tmp_path / "longer")
    theirs, _ = _trained(none, tmp_path / "none")
    assert (len(ours.losses), len(theirs.losses)) == (9, 6)
    assert ours.losses.isfinite().all()
    assert torch.equal(ours.losses[:6], theirs.losses)


def test_longer_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A finished training is found again, not repeated: its steps are those of the longer one."""
    config = quick_config(tmp_path, "sit", "longer", "registers.longer_training.factor=2")
    first, _ = _trained(config, tmp_path / "checkpoints")
    again, _ = _trained(config, tmp_path / "checkpoints")
    assert torch.equal(first.losses, again.losses)
    assert again.seconds == first.seconds


def test_only_longer_training_changes_the_steps(tmp_path: Path) -> None:
    assert quick_config(tmp_path, "sit", "dsr").registers.training_steps(1000) == 1000
    longer = quick_config(tmp_path, "sit", "longer", "registers.longer_training.factor=1.1042").registers
    assert longer.training_steps(1000) == 1104


def test_zero_registers_enter_as_zeros_and_have_nothing_to_train(tmp_path: Path) -> None:
    """In both trunks of DiT-DH, whose second one is as wide as its own blocks."""
    config = quick_config(tmp_path, "rae-dit-dh", "zero-registers", "recipe.trains_fixed_tables=true")
    denoiser = build(config)
    assert list(denoiser.registers.parameters()) == []
    for start, width in ((1, 16), (3, 96)):
        entered = denoiser.registers.enter(start, torch.ones(2, 16, width), torch.ones(2, 16))
        assert entered.shape == (2, 20, width)
        assert entered[:, :16].all()
        assert not entered[:, 16:].any()


def test_zero_registers_are_as_many_and_as_deep_as_the_papers() -> None:
    ours, papers = (resolve_network(Request("sit-xl-2", p)).registers.denoiser for p in ("zero-registers", "denoiser"))
    assert ours is not None
    assert papers is not None
    assert (ours.count, ours.start_block) == (papers.count, papers.start_block) == (36, 8)


def test_content_free_registers_still_take_attention(tmp_path: Path) -> None:
    """They are no null operation: the blocks modulate them, and patches see them."""
    zeros = quick_config(tmp_path, "sit", "zero-registers")
    plain = _loud(zeros.without_registers())
    ours = build(zeros)
    ours.load_state_dict(plain.state_dict(), strict=True)
    with_zeros, without = (_handed_on(network.eval(), zeros)[-1][:, :16] for network in (ours, plain))
    assert not torch.allclose(with_zeros, without)


@pytest.mark.parametrize("family", registry.families())
def test_the_papers_threshold_is_refused_where_no_encoder_gives_norms(family: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="masks by the norm of an encoder's tokens"):
        quick_config(tmp_path, family, "loss-mask-paper")


@pytest.mark.parametrize("family", [name for name in registry.families() if name.startswith("rae")])
def test_the_papers_threshold_is_100_and_absolute(family: str) -> None:
    mask = resolve(Request(family, "loss-mask-paper")).registers.loss_mask
    assert mask == LossMask(above=100.0, unit="absolute")
    norms = torch.tensor([[[99.0, 101.0], [1.0, 100.5]]])
    assert torch.equal(token_weights(mask, norms, torch.zeros(1)) > 0, norms < 100)
