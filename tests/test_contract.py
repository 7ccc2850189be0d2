"""The reviewer of every backbone with every preset: build it tiny, and look."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import dsr
from harness import registry
from harness.build import build, size_of
from harness.denoiser import Denoiser, Registers
from harness.errors import UserError
from harness.objective import objective_of
from harness.spec import DenoiserRegisters, RegisterConfig, RunConfig
from tests.builders import quick_config

PAIRS = [
    (family, preset)
    for family in registry.families()
    for preset, facts in dsr.PRESETS.items()
    if facts.stages != ("encoder",) or registry.find(family).encoder
]


@pytest.fixture(params=PAIRS, ids="-".join)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> RunConfig:
    backbone, preset = request.param
    return quick_config(tmp_path, backbone, preset)


def _inputs(count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 8, 8, generator=random), torch.rand(count), torch.arange(count)


def _awake(denoiser: Denoiser) -> Denoiser:
    """Gates and the last layer start at zero; here they let something through."""
    torch.manual_seed(1)
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return denoiser


def _loss(config: RunConfig, denoiser: Denoiser) -> Tensor:
    data, uniform, labels = _inputs()
    objective = objective_of(config)
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(2))
    return objective.loss(
        lambda x, t: denoiser(x, t, labels), data, noise, objective.training_times(uniform * 0.5)
    ).mean()


def test_none_adds_nothing(config: RunConfig) -> None:
    plain = build(config.without_registers())
    assert list(plain.registers.parameters()) == []
    assert not [key for key in plain.state_dict() if "registers" in key]


def test_registers_leave_the_networks_own_weights_as_they_are(config: RunConfig) -> None:
    plain, ours = build(config.without_registers()).state_dict(), build(config).state_dict()
    assert all(torch.equal(ours[key], value) for key, value in plain.items())


def test_a_fresh_network_predicts_zero(config: RunConfig) -> None:
    x, t, y = _inputs()
    out = build(config)(x, t, y)
    assert out.shape[0] == len(x)
    assert out.shape[2:] == x.shape[2:]
    assert not out.any()


def test_registers_change_the_output_and_are_trained(config: RunConfig) -> None:
    denoiser = _awake(build(config))
    x, t, y = _inputs()
    with_registers = denoiser(x, t, y)
    _loss(config, denoiser).backward()  # type: ignore[no-untyped-call]
    trained = [p for p in denoiser.registers.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    if config.registers.denoiser is None:
        assert trained == []
        return
    plain = _awake(build(config.without_registers()))
    plain.load_state_dict({k: v for k, v in denoiser.state_dict().items() if not k.startswith("registers.")})
    assert not torch.allclose(with_registers, plain(x, t, y))


def test_count_and_start_block_are_honoured(config: RunConfig) -> None:
    denoiser = build(config)
    lengths: list[int] = []
    denoiser(*_inputs(), lambda _, tokens: lengths.append(tokens.shape[1]))
    registers = config.registers.denoiser
    for index, length in enumerate(lengths):
        expected = registers.count if registers and index >= registers.start_block else 0
        assert length - denoiser.patch_tokens == expected == denoiser.registers.present(index)


def test_one_step_lowers_a_toy_loss(config: RunConfig) -> None:
    denoiser = build(config).train()
    optimizer = torch.optim.AdamW([p for p in denoiser.parameters() if p.requires_grad], lr=1e-3)
    before = _loss(config, denoiser)
    before.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert float(_loss(config, denoiser).detach()) < float(before.detach())


def test_weights_are_saved_and_loaded_strictly(config: RunConfig) -> None:
    first, second = _awake(build(config)), build(config)
    second.load_state_dict(first.state_dict(), strict=True)
    inputs = _inputs()
    assert torch.equal(first(*inputs), second(*inputs))


def test_operations_grow_as_computed(config: RunConfig) -> None:
    """Linear layers grow with the registers, attention with the square of the sequence."""
    registers = config.registers.denoiser
    with_them, without = size_of(config), size_of(config.without_registers())
    if registers is None:
        assert with_them == without
        return
    width, depth = config.network["width"], config.network["depth"]
    patches, count = (config.network["input_size"] // config.network["patch_size"]) ** 2, registers.count
    linear = 12 * width**2 * count
    attention = 2 * width * ((patches + count) ** 2 - patches**2)
    assert with_them.flops - without.flops == 2 * (depth - registers.start_block) * (linear + attention)
    assert with_them.trainable_parameters - without.trainable_parameters == count * width
    assert with_them.parameters - without.parameters == 2 * count * width


class _TwoTrunks(Denoiser):
    """DiT-DH's shape in small: the first trunk's tokens, registers included, condition the second, token by token."""

    def __init__(self) -> None:
        super().__init__()
        from harness.denoiser import Trunk

        self.trunks, self.patch_tokens, self.null_label = (Trunk(0, 3, 8), Trunk(3, 2, 16)), 4, None
        self.narrow, self.wide = torch.nn.Linear(1, 8), torch.nn.Linear(1, 16)
        self.project = torch.nn.Linear(8, 16)

    def embed(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        pixels = x.flatten(1)[:, :, None]
        return self.narrow(pixels), self.wide(pixels)

    def step(self, index: int, tokens: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        if index < 2:
            return tokens + 1, condition
        if index == 2:
            return condition, self.project(tokens + 1)
        return tokens * condition, condition

    def decode(self, tokens: Tensor, condition: Tensor) -> Tensor:
        return tokens.mean(-1).view(-1, 1, 2, 2)


def test_the_seam_bears_two_trunks_of_different_width() -> None:
    denoiser = _TwoTrunks()
    dsr.attach(RegisterConfig(preset="dsr", denoiser=DenoiserRegisters(count=3, start_block=1)), denoiser)
    seen: list[tuple[int, ...]] = []
    out = denoiser(torch.ones(2, 1, 2, 2), torch.ones(2), torch.ones(2), lambda _, tokens: seen.append(tokens.shape))
    assert out.shape == (2, 1, 2, 2)
    # The first trunk hands over patches alone; the head receives a fresh set of its own width.
    assert seen == [(2, 4, 8), (2, 7, 8), (2, 4, 16), (2, 7, 16), (2, 7, 16)]
    assert isinstance(denoiser.registers, Registers)
    widths = [p.shape[-1] for p in denoiser.registers.parameters() if p.requires_grad]
    assert widths == [8, 16]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 9, 12, 36])
def test_any_number_of_registers_has_positions(count: int, tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "denoiser", f"registers.denoiser.count={count}")
    position = build(config).state_dict()["registers.sets.1.position"]
    assert position.shape == (1, count, 16)
    distinct = 1 if count < 4 else count
    assert len({tuple(row.tolist()) for row in position[0]}) == distinct


def test_square_numbers_of_registers_fill_the_official_grid(tmp_path: Path) -> None:
    from harness.positions import register_positions, sin_cos_2d

    assert (register_positions(36, 48) == sin_cos_2d(6, 6, 48)).all()
    # 5 = 2 rows of 3 columns, the last cell left out.
    assert (register_positions(5, 48) == sin_cos_2d(2, 3, 48)[:5]).all()


def test_a_preset_without_anything_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no transformer"):
        quick_config(tmp_path, "sit", "encoder")
    assert quick_config(tmp_path, "sit", "dsr").registers.absent_stages == ("encoder",)
