"""Register methods: what each one computes."""

import math
from pathlib import Path

import pytest
import torch

import dsr
from dsr.gated_attention import GatedMixing
from dsr.kv_bias import KvBias
from dsr.loss_mask import element_weights
from dsr.sink_logit import SinkLogit, SoftmaxOne
from harness.attention import MixesTokens
from harness.build import build, size_of
from harness.errors import UserError
from harness.guidance import Asked, guided
from harness.positions import register_positions, sin_cos_2d
from harness.registers import LossMask, RegisterGuidance
from harness.spec import Guidance
from tests.builders import harness, quick_config


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 9, 12, 36])
def test_any_number_of_registers_has_positions(count: int, tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "denoiser", f"registers.denoiser.count={count}")
    position = build(config).state_dict()["registers.sets.1.position"]
    assert position.shape == (1, count, 16)
    distinct = 1 if count < 4 else count
    assert len({tuple(row.tolist()) for row in position[0]}) == distinct


def test_square_numbers_of_registers_fill_the_official_grid() -> None:
    assert (register_positions(36, 48) == sin_cos_2d(6, 6, 48)).all()
    # 5 = 2 rows of 3 columns, the last cell left out.
    assert (register_positions(5, 48) == sin_cos_2d(2, 3, 48)[:5]).all()


def test_a_preset_without_anything_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no transformer"):
        quick_config(tmp_path, "sit", "encoder")
    assert quick_config(tmp_path, "sit", "dsr").registers.absent_stages == ("encoder",)


def test_the_head_has_registers_of_its_own_width(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "rae-dit-dh", "dsr", "registers.denoiser.count=9")
    shapes = {name: tuple(p.shape) for name, p in build(config).registers.named_parameters() if p.requires_grad}
    assert shapes == {"sets.1.tokens": (1, 9, 16), "sets.3.tokens": (1, 9, 96)}


def test_class_tokens_hold_the_class_and_no_vector_of_their_own(tmp_path: Path) -> None:
    """JiT's in-context tokens on SiT: another label makes other registers."""
    denoiser = build(quick_config(tmp_path, "sit", "class-tokens"))
    assert [name for name, _ in denoiser.registers.named_parameters()] == ["sets.1.position"]
    tokens, labels = torch.zeros(2, 16, 16), denoiser.embed_label(torch.tensor([1, 2]))
    entered = denoiser.registers.enter(1, tokens, labels)[:, 16:]
    expected = labels[:, None] + denoiser.state_dict()["registers.sets.1.position"]
    torch.testing.assert_close(entered, expected)


def test_jits_own_tokens_and_registers_keep_out_of_each_others_way(tmp_path: Path) -> None:
    """Registers that enter before JiT's tokens leave after them; what comes out is made of patches alone."""
    sets = ("network.in_context_len=3", "network.in_context_start=2", "registers.denoiser.start_block=0")
    config = quick_config(tmp_path, "jit", "denoiser", *sets)
    denoiser = build(config)
    lengths: list[int] = []
    x, t, y = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 1])
    assert denoiser(x, t, y, lambda _, tokens: lengths.append(tokens.shape[1])).shape == x.shape
    assert lengths == [20, 20, 23]
    registers = denoiser.registers.enter(0, torch.zeros(2, 16, 16), torch.zeros(2, 16))[:, 16:]
    behind = denoiser.step(2, torch.cat([torch.zeros(2, 16, 16), registers], 1), (torch.zeros(2, 16),) * 2)
    torch.testing.assert_close(denoiser.registers.leave(behind).shape, torch.Size([2, 19, 16]))


def _heads(seed: int = 0, shift: float = 0.0) -> tuple[torch.Tensor, ...]:
    """q, k, v (2, 3, 5, 4) whose logits are all moved by `shift`, and tokens (2, 5, 12)."""
    random = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=random) for _ in range(3))
    q[..., 0], k[..., 0] = 1.0, shift * 2.0
    return q, k, v, torch.randn(2, 5, 12, generator=random)


def test_softmax_one_says_nothing_when_no_key_fits() -> None:
    q, k, v, tokens = _heads(shift=-1e4)
    assert SoftmaxOne()(q, k, v, tokens).abs().max() < 1e-12


def test_softmax_one_sees_a_constant_added_to_the_logits() -> None:
    """Plain softmax does not; a wrong softmax-one that subtracts the maximum first does not either."""
    outs = [SoftmaxOne()(*_heads(shift=shift)) for shift in (0.0, 1.0)]
    assert (outs[0] - outs[1]).abs().max() > 0.01


@pytest.mark.parametrize("sink", [0.0, -2.0, 3.0])
def test_the_sink_takes_its_share_and_gives_nothing(sink: float) -> None:
    layer = MixesTokens(12, 3)
    mixing = SinkLogit(layer)
    torch.nn.init.constant_(mixing.sink, sink)
    q, k, v, tokens = _heads()
    weights = torch.exp(q @ k.transpose(-1, -2) / math.sqrt(4))
    expected = weights @ v / (math.exp(sink) + weights.sum(-1, keepdim=True))
    torch.testing.assert_close(mixing(q, k, v, tokens), expected, atol=1e-5, rtol=1e-5)
    if sink == 0.0:
        torch.testing.assert_close(SoftmaxOne()(q, k, v, tokens), expected, atol=1e-5, rtol=1e-5)


def test_the_bias_is_one_more_key_with_a_value() -> None:
    mixing = KvBias(MixesTokens(12, 3))
    q, k, v, tokens = _heads()
    k1, v1 = (torch.cat([a, b.expand(2, -1, -1, -1)], 2) for a, b in ((k, mixing.k_bias), (v, mixing.v_bias)))
    expected = torch.softmax(q @ k1.transpose(-1, -2) / 2.0, -1) @ v1
    torch.testing.assert_close(mixing(q, k, v, tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("elementwise", "outputs"), [(False, 3), (True, 12)])
def test_a_gate_closes_what_attention_says(elementwise: bool, outputs: int) -> None:
    mixing = GatedMixing(MixesTokens(12, 3), elementwise=elementwise)
    assert mixing.gate.out_features == outputs
    q, k, v, tokens = _heads()
    torch.nn.init.constant_(mixing.gate.bias, -100.0)
    assert mixing(q, k, v, tokens).abs().max() < 1e-12


def test_masked_patches_cost_nothing_and_the_rest_counts_fully() -> None:
    data = torch.ones(2, 3, 8, 8)
    data[0, :, 0:2, 2:4] = 10.0
    weights = element_weights(LossMask(above=2.0), patch_tokens=16)(data, torch.full((2,), 0.5))
    assert weights.shape == (2, 1, 8, 8)
    assert not weights[0, 0, 0:2, 2:4].any()
    assert float(weights.mean()) == pytest.approx(1.0)
    assert len(set(weights.flatten().tolist())) == 2


@pytest.mark.parametrize(("scale", "register_scale"), [(1.0, 1.0), (1.0, 2.0), (3.0, 0.0), (3.0, 1.0), (3.0, 2.0)])
def test_register_guidance_is_its_formula(scale: float, register_scale: float) -> None:
    with_registers, against, without = (torch.full((2, 3, 1, 1), value) for value in (5.0, 2.0, 4.0))
    asked = Asked(lambda *_: with_registers, lambda *_: against, lambda *_: without)
    guidance = Guidance(scale=scale, channels="all")
    model = guided(asked, guidance, RegisterGuidance(scale=register_scale), lambda common: common, 3)
    got = float(model(torch.zeros(2, 3, 1, 1), torch.full((2,), 0.5)).mean())
    if scale == 1.0:
        assert got == 4.0 + register_scale * (5.0 - 4.0)
    else:
        assert got == 2.0 + scale * (5.0 - 2.0) + register_scale * (5.0 - 4.0)


def test_wider_mlps_cost_what_the_papers_registers_cost(tmp_path: Path) -> None:
    from harness.resolve import Request, resolve_network

    for name in ("sit-xl-2", "jit-b-16", "rae-dit-b", "rae-dit-dh-xl"):
        wide, registers = (size_of(resolve_network(Request(name, preset))).flops for preset in ("wide-mlp", "denoiser"))
        assert abs(wide / registers - 1) < 0.005, name


def test_every_preset_is_explained_in_a_line(tmp_path: Path) -> None:
    said = harness("list", "registers", cwd=tmp_path)
    assert said.code == 0
    for name, preset in dsr.PRESETS.items():
        assert f"  {name} " in said.out
        assert preset.title in said.out
