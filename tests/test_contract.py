"""The reviewer of every backbone with every register preset: build it tiny, and look.

`pytest tests/test_contract.py --backbones DIR` also reviews the backbone files in another folder.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import dsr
from harness import registry
from harness.attention import MixesTokens
from harness.backbone import Network
from harness.build import build, size_of
from harness.denoiser import Denoiser
from harness.objective import objective_of
from harness.records import RunRecord
from harness.run import run
from harness.sample import sample
from harness.spec import RunConfig
from tests.builders import quick_config, sampled

COMPILED_IN_FULL = {"none", "dsr", "sink-logit"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every family, those of `--backbones` included, with every preset that leaves something here."""
    if "pair" not in metafunc.fixturenames:
        return
    presets = [name for name, p in dsr.PRESETS.items() if p.stages != ("encoder",) and not p.needs_encoder]
    pairs = [(family, preset) for family in registry.families() for preset in presets]
    metafunc.parametrize("pair", pairs, ids=["-".join(pair) for pair in pairs])


@pytest.fixture
def config(pair: tuple[str, str], tmp_path: Path) -> RunConfig:
    return quick_config(tmp_path, *pair)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch._dynamo.reset()


def _inputs(config: RunConfig, count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    channels, side = config.latents.shape(config.task)
    x = torch.randn(count, channels, side, side, generator=random)
    return x, torch.rand(count, generator=random), torch.arange(count)


def _network(config: RunConfig) -> Network:
    return registry.find(config.backbone).size(config.size).model_validate(config.network)


def _awake(denoiser: Denoiser) -> Denoiser:
    """Gates and the last layer start at zero; here they let something through."""
    torch.manual_seed(1)
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return denoiser


def _added(config: RunConfig, denoiser: Denoiser) -> dict[str, torch.nn.Parameter]:
    """What the preset adds to the network."""
    plain = {name for name, _ in build(config.without_registers()).named_parameters()}
    return {name: parameter for name, parameter in denoiser.named_parameters() if name not in plain}


def _loss(config: RunConfig, denoiser: Denoiser) -> Tensor:
    data, uniform, labels = _inputs(config)
    objective = objective_of(config)
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(2))
    times = objective.training_times(uniform * 0.5)
    weight = denoiser.loss_weight(data, times)
    return objective.loss(lambda x, t: denoiser(x, t, labels), data, noise, times, weight).mean()


def test_none_adds_nothing(config: RunConfig) -> None:
    plain = build(config.without_registers())
    assert list(plain.registers.parameters()) == []
    assert not [key for key in plain.state_dict() if "registers" in key or "mixing" in key]


def test_a_preset_leaves_the_networks_own_weights_as_they_are(config: RunConfig) -> None:
    plain, ours = build(config.without_registers()).state_dict(), build(config).state_dict()
    if config.registers.wider_mlp is None:
        assert all(torch.equal(ours[key], value) for key, value in plain.items())
    else:
        assert list(ours) == list(plain)


def test_a_fresh_network_predicts_zero_in_the_right_shape(config: RunConfig) -> None:
    x, t, y = _inputs(config)
    out = build(config)(x, t, y)
    assert out.shape == (len(x), _network(config).predicted_channels, *x.shape[2:])
    assert not out.any()


def test_what_a_preset_adds_changes_the_output_and_is_trained(config: RunConfig) -> None:
    denoiser = _awake(build(config))
    inputs = _inputs(config)
    out = denoiser(*inputs)
    _loss(config, denoiser).backward()  # type: ignore[no-untyped-call]
    added = {name: p for name, p in _added(config, denoiser).items() if p.requires_grad}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in added.values()), list(added)
    changes_the_network = config.registers.denoiser or config.registers.attention
    if not changes_the_network:
        assert not added
        return
    plain = _awake(build(config.without_registers()))
    plain.load_state_dict({k: v for k, v in denoiser.state_dict().items() if k in plain.state_dict()})
    assert not torch.allclose(out, plain(*inputs))


def test_without_registers_is_the_plain_network(config: RunConfig) -> None:
    """What register guidance compares with, in training and in sampling."""
    denoiser = _awake(build(config))
    if config.registers.denoiser is None:
        return
    plain = _awake(build(config.without_registers()))
    plain.load_state_dict({k: v for k, v in denoiser.state_dict().items() if not k.startswith("registers.")})
    inputs = _inputs(config)
    assert torch.equal(denoiser(*inputs, with_registers=False), plain(*inputs))


def test_count_and_start_block_are_honoured(config: RunConfig) -> None:
    denoiser, plain = build(config), build(config.without_registers())
    lengths: list[int] = []
    natural: list[int] = []
    denoiser(*_inputs(config), lambda _, tokens: lengths.append(tokens.shape[1]))
    plain(*_inputs(config), lambda _, tokens: natural.append(tokens.shape[1]))
    registers = config.registers.denoiser
    for index, (length, without) in enumerate(zip(lengths, natural, strict=True)):
        expected = registers.count if registers and index >= registers.start_block else 0
        assert length - without == expected == denoiser.registers.present(index)
    assert max(natural) == denoiser.patch_tokens + config.registers.native_tokens


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
    inputs = _inputs(config)
    assert torch.equal(first(*inputs), second(*inputs))


def test_an_image_does_not_depend_on_its_batch(config: RunConfig) -> None:
    made_from = sampled(config, _awake(build(config)))
    indices = np.arange(6)
    together = sample(config, made_from, indices, "float32")
    apart = [sample(config, made_from, part, "float32") for part in np.split(indices, [1, 3])]
    np.testing.assert_array_equal(np.concatenate(apart), together)


def test_operations_grow_as_computed(config: RunConfig, tmp_path: Path) -> None:
    """Attention grows with the square of the sequence, linear layers with the tokens that pass them."""
    registers, network = config.registers, _network(config)
    flops, plain = size_of(config).flops, size_of(config.without_registers()).flops
    widths = [shape.width for shape in network.trunk_shapes for _ in range(shape.depth)]
    lengths: list[int] = []
    denoiser = build(config.without_registers())
    denoiser(*_inputs(config, 1), lambda _, tokens: lengths.append(tokens.shape[1]))
    if registers.denoiser is not None:
        count, start = registers.denoiser.count, registers.denoiser.start_block
        present = list(zip(widths, lengths, strict=True))[start:]
        doubled = size_of(_with_count(config, 2 * count)).flops
        assert doubled - 2 * flops + plain == sum(8 * width * count**2 for width, _ in present)
        attention = sum(4 * width * ((length + count) ** 2 - length**2) for width, length in present)
        least = sum(2 * (4 + 2 * network.mlp_ratio) * width**2 * count for width, _ in present)
        assert flops - plain - attention > 0.97 * least
    elif registers.wider_mlp is not None:
        target = size_of(quick_config(tmp_path, config.backbone, "denoiser")).flops
        assert abs(flops / target - 1) < 0.02
    elif registers.attention is None:
        assert flops == plain
    else:
        heads = [layer.num_heads for layer in denoiser.modules() if isinstance(layer, MixesTokens)]
        per_token = {"gate-headwise": heads, "gate-elementwise": widths}.get(
            registers.attention.kind, [2] * len(widths)
        )
        added = zip(widths, lengths, per_token, strict=True)
        assert flops - plain == sum(2 * length * width * each for width, length, each in added)


def _with_count(config: RunConfig, count: int) -> RunConfig:
    assert config.registers.denoiser is not None
    more = config.registers.denoiser.model_copy(update={"count": count})
    return config.model_copy(update={"registers": config.registers.model_copy(update={"denoiser": more})})


def test_a_record_round_trips(config: RunConfig) -> None:
    """A whole run: trained, sampled, measured, recorded, read again."""
    few = {"steps": 2, "batch_size": 4}
    protocol = config.protocol.model_copy(update={"num_images": 10, "outlier_images": 2})
    small = config.model_copy(update={"recipe": config.recipe.model_copy(update=few), "protocol": protocol})
    outcome = run(small)
    assert RunRecord.model_validate_json(outcome.path.read_bytes()) == outcome.record
    assert outcome.record.run_id == small.run_id == outcome.record.config.run_id
    assert outcome.record.status == "finished"


def test_compiled_equals_eager(config: RunConfig, pair: tuple[str, str]) -> None:
    """Every pair is traced as one graph; some presets of each backbone go through the whole compiler."""
    denoiser, inputs = _awake(build(config)).eval(), _inputs(config, 2)
    has_compiler = any(map(shutil.which, ("g++", "clang++")))
    backend = "inductor" if has_compiler and pair[1] in COMPILED_IN_FULL else "aot_eager"
    with torch.no_grad():
        compiled = torch.compile(denoiser, fullgraph=True, dynamic=False, backend=backend)
        torch.testing.assert_close(compiled(*inputs), denoiser(*inputs), atol=1e-4, rtol=1e-4)
