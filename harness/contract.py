"""What every backbone promises, whichever registers it meets: one function for each promise."""

# N batch, C channels

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import dsr
from harness import registry
from harness.attention import MixesTokens
from harness.backbone import Backbone, Network
from harness.build import build, size_of
from harness.denoiser import Denoiser
from harness.latents import plain_codec
from harness.objective import objective_of
from harness.sample import Sampled, sample
from harness.spec import DdpmSampler, RaeLatents, RunConfig

NARROW = ("network.width=16", "network.depth=3", "network.num_heads=2")
STAND_IN = ("latents.kind=stand-in", "latents.patch=2")
BATCH = 5

# All arithmetic of one machine and one thread: what may differ is the order of a sum in another kernel.
TOLERANCE = 1e-4
LINEAR_SHARE, MATCHED_WITHIN = 0.97, 0.02


class PromiseError(Exception):
    """A promise that a backbone does not keep; its text is what was seen."""


@dataclass(frozen=True)
class Promise:
    """What is promised, where to look if it is broken, and what finds that out by raising PromiseError.

    `check` takes a resolved run over latents that need no encoder, and works on the CPU.
    """

    text: str
    remedy: str
    check: Callable[[RunConfig], None]

    @property
    def name(self) -> str:
        """`registers-enter-and-leave`."""
        return self.check.__name__.replace("_", "-")


def presets() -> list[str]:
    """The register presets that change something on every backbone, an encoder or not."""
    return [name for name, p in dsr.PRESETS.items() if p.stages != ("encoder",) and not p.needs_encoder]


def small_changes(backbone: Backbone) -> tuple[str, ...]:
    """Changes that make a run on the digits small enough to look into, without any encoder."""
    few_steps = "sampler.respacing=3" if isinstance(backbone.sampler, DdpmSampler) else "sampler.points=3"
    stand_in = STAND_IN if isinstance(backbone.latents, RaeLatents) else ()
    return ("recipe.batch_size=8", few_steps, *stand_in)


def file_is_free_of_torch(config: RunConfig) -> None:
    """Names, sizes and recipes are known at once: torch takes seconds."""
    file = registry.file_of(config.backbone)
    code = f"import runpy, sys; runpy.run_path({str(file)!r}); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=registry.folder().parent, capture_output=True, text=True, check=False
    )
    _require(done.returncode == 0, done.stderr.strip().rpartition("\n")[2] or f"{file.name} imports torch")


def none_leaves_no_trace(config: RunConfig) -> None:
    """Without registers there is neither a parameter nor a key of any."""
    plain = build(config.without_registers())
    _require(not list(plain.registers.parameters()), "the network has registers of its own in `registers`")
    traces = [key for key in plain.state_dict() if "registers" in key or "mixing" in key]
    _require(not traces, f"keys of the state dict speak of them: {', '.join(traces[:3])}")


def building_is_deterministic(config: RunConfig) -> None:
    """The run's seed decides the first weights, and equal weights give equal outputs."""
    first, second, inputs = build(config), build(config), _inputs(config)
    states = first.state_dict(), second.state_dict()
    _require(list(states[0]) == list(states[1]), "two builds have other keys")
    moved = [key for key, value in states[0].items() if not torch.equal(value, states[1][key])]
    _require(not moved, f"two builds from one seed differ in {', '.join(moved[:3])}")
    awake = _awake(first).eval()
    _require(torch.equal(awake(*inputs), awake(*inputs)), "two evaluations of one network differ")


def fresh_output_is_zero_and_in_shape(config: RunConfig) -> None:
    """A fresh network predicts zero, as adaLN-Zero does, in the shape that its objective needs."""
    x, t, y = _inputs(config)
    out = build(config)(x, t, y)
    wanted = (len(x), _network(config).predicted_channels, *x.shape[2:])
    _require(out.shape == wanted, f"the output is {tuple(out.shape)}, not {wanted}")
    _require(not out.any(), f"a fresh network predicts up to {float(out.detach().abs().max()):.3g}, not 0")


def time_matters(config: RunConfig) -> None:
    """Another time, another prediction."""
    denoiser, (x, t, y) = _awake(build(config)).eval(), _inputs(config)
    _require(not torch.allclose(denoiser(x, t, y), denoiser(x, t + 0.3, y)), "the prediction is the same at every time")


def class_matters(config: RunConfig) -> None:
    """Another class, another prediction, "no class" included where the network says that it has one."""
    denoiser, (x, t, y) = _awake(build(config)).eval(), _inputs(config)
    _require(not torch.allclose(denoiser(x, t, y), denoiser(x, t, y + 1)), "the prediction is the same for every class")
    says, null = _network(config).has_null_class, denoiser.null_label
    _require(says == (null is not None), f"has_null_class is {says}, and null_label is {null}")
    if null is not None:
        no_class = torch.full_like(y, null)
        _require(not torch.allclose(denoiser(x, t, y), denoiser(x, t, no_class)), 'a class is as good as "no class"')


def own_weights_stay_as_they_are(config: RunConfig) -> None:
    """Arms that differ in registers alone start from the same weights."""
    plain, ours = build(config.without_registers()).state_dict(), build(config).state_dict()
    if config.registers.wider_mlp is not None:
        _require(list(ours) == list(plain), "a wider MLP has other keys")
        return
    moved = [key for key, value in plain.items() if key not in ours or not torch.equal(ours[key], value)]
    _require(not moved, f"the network's own weights are others beside registers: {', '.join(moved[:3])}")


def additions_change_the_output_and_are_trained(config: RunConfig) -> None:
    """Whatever is added reaches the output, and the loss reaches it."""
    denoiser, inputs = _awake(build(config)), _inputs(config)
    out = denoiser(*inputs)
    _loss(config, denoiser).backward()  # type: ignore[no-untyped-call]
    plain = build(config.without_registers())
    own = {name for name, _ in plain.named_parameters()}
    added = {name: p for name, p in denoiser.named_parameters() if name not in own and p.requires_grad}
    idle = [name for name, p in added.items() if p.grad is None or not p.grad.abs().sum() > 0]
    _require(not idle, f"no gradient reaches {', '.join(idle[:3])}")
    if not (config.registers.denoiser or config.registers.attention):
        _require(not added, f"parameters were added: {', '.join(list(added)[:3])}")
        return
    plain = _with_weights_of(denoiser, plain)
    _require(not torch.allclose(out, plain(*inputs)), "the output is the same without what was added")


def without_registers_it_is_the_plain_network(config: RunConfig) -> None:
    """What register guidance compares with, in training and in sampling."""
    if config.registers.denoiser is None:
        return
    denoiser, inputs = _awake(build(config)), _inputs(config)
    plain = _with_weights_of(denoiser, build(config.without_registers()))
    same = torch.equal(denoiser(*inputs, with_registers=False), plain(*inputs))
    _require(same, "with its registers left out it is not the network that has none")


def registers_enter_and_leave(config: RunConfig) -> None:
    """So many tokens from such a block on, in every block after it, and nothing else moves the length."""
    denoiser, plain = build(config), build(config.without_registers())
    lengths, natural = _lengths(denoiser, config), _lengths(plain, config)
    registers = config.registers.denoiser
    depth = denoiser.depth
    _require(len(lengths) == len(natural) == depth, f"{len(natural)} blocks are passed, and trunks has {depth}")
    for index, (length, without) in enumerate(zip(lengths, natural, strict=True)):
        wanted = registers.count if registers and index >= registers.start_block else 0
        seen = length - without
        _require(seen == wanted == denoiser.registers.present(index), f"block {index} hands on {seen}, not {wanted}")
    tokens = denoiser.patch_tokens + config.registers.native_tokens
    _require(max(natural) == tokens, f"{max(natural)} tokens without registers, and patches and its own are {tokens}")


def one_step_lowers_the_loss(config: RunConfig) -> None:
    """It learns: one step on a toy batch."""
    denoiser = build(config).train()
    optimizer = torch.optim.AdamW([p for p in denoiser.parameters() if p.requires_grad], lr=1e-3)
    before = _loss(config, denoiser)
    before.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    first, second = float(before.detach()), float(_loss(config, denoiser).detach())
    _require(second < first, f"the loss was {first:.6g} before the step and is {second:.6g} after it")


def weights_are_saved_and_loaded_strictly(config: RunConfig) -> None:
    """The state dict is the whole network."""
    first, second, inputs = _awake(build(config)), build(config), _inputs(config)
    second.load_state_dict(first.state_dict(), strict=True)
    _require(torch.equal(first(*inputs), second(*inputs)), "with the weights of another it is not that other")


def an_image_does_not_depend_on_its_batch(config: RunConfig) -> None:
    """Six images made together are the same six made apart."""
    assert not isinstance(config.latents, RaeLatents), "promises are tried without an encoder"
    codec = plain_codec(config.latents, config.task, torch.device("cpu"))
    made_from = Sampled(_awake(build(config)), codec)
    indices = np.arange(6)
    together = sample(config, made_from, indices, "float32")
    apart = [sample(config, made_from, part, "float32") for part in np.split(indices, [1, 3])]
    _require(np.array_equal(np.concatenate(apart), together), "an image is another in another batch")


def operations_grow_as_computed(config: RunConfig) -> None:
    """Attention grows with the square of the sequence, linear layers with the tokens that pass them."""
    registers, network = config.registers, _network(config)
    plain_config = config.without_registers()
    flops, plain = size_of(config).flops, size_of(plain_config).flops
    widths = [shape.width for shape in network.trunk_shapes for _ in range(shape.depth)]
    lengths = _lengths(build(plain_config), plain_config)
    _require(len(widths) == len(lengths), f"trunk_shapes has {len(widths)} blocks, and {len(lengths)} are passed")
    if registers.denoiser is not None:
        count, start = registers.denoiser.count, registers.denoiser.start_block
        present = list(zip(widths, lengths, strict=True))[start:]
        doubled = size_of(_with_count(config, 2 * count)).flops
        squares = sum(8 * width * count**2 for width, _ in present)
        _equal(doubled - 2 * flops + plain, squares, "operations of attention between registers")
        attention = sum(4 * width * ((length + count) ** 2 - length**2) for width, length in present)
        least = sum(2 * (4 + 2 * network.mlp_ratio) * width**2 * count for width, _ in present)
        _require(flops - plain - attention > LINEAR_SHARE * least, "registers do not pass every linear layer")
    elif registers.wider_mlp is not None:
        target = size_of(_with_preset(config, "denoiser")).flops
        _require(abs(flops / target - 1) < MATCHED_WITHIN, "a wider MLP does not cost what registers do (mlp_ratio)")
    elif registers.attention is None:
        _equal(flops, plain, "operations")
    else:
        heads = [layer.num_heads for layer in build(plain_config).modules() if isinstance(layer, MixesTokens)]
        _require(len(heads) == len(lengths), f"{len(heads)} of {len(lengths)} blocks have an attention of MixesTokens")
        per_token = {"gate-headwise": heads, "gate-elementwise": widths}.get(
            registers.attention.kind, [2] * len(widths)
        )
        added = sum(2 * length * width * n for width, length, n in zip(widths, lengths, per_token, strict=True))
        _equal(flops - plain, added, f"operations of {registers.attention.kind}")


def is_traced_whole(config: RunConfig) -> None:
    """torch.compile makes one graph of it, which computes the same."""
    require_compiled_equals_eager(config, "aot_eager")


def require_compiled_equals_eager(config: RunConfig, backend: str) -> None:
    """Raise PromiseError where a network is another under torch.compile."""
    denoiser, inputs = _awake(build(config)).eval(), _inputs(config, 2)
    with torch.no_grad():
        compiled = torch.compile(denoiser, fullgraph=True, dynamic=False, backend=backend)
        same = torch.allclose(compiled(*inputs), denoiser(*inputs), atol=TOLERANCE, rtol=TOLERANCE)
    torch._dynamo.reset()  # noqa: SLF001 (there is no other way to forget what was compiled)
    _require(same, "compiled, it predicts something else")


# Of a file in baselines/; a third party's one file may import what it likes.
OF_A_FILE = (
    Promise(
        "its file says what it is without torch",
        "import the network inside build, and keep sizes in files without torch",
        file_is_free_of_torch,
    ),
)
OF_A_FAMILY = (
    Promise(
        "without registers there is no trace of them",
        "never mention registers in a backbone: harness.denoiser.Denoiser holds them",
        none_leaves_no_trace,
    ),
    Promise("the seed decides its first weights", "draw from torch's own generator only", building_is_deterministic),
    Promise(
        "a fresh one predicts zero, in the right shape",
        "start the last layer at zero (FinalLayer), and return (N, predicted_channels, H, W)",
        fresh_output_is_zero_and_in_shape,
    ),
    Promise("its prediction depends on the time", "let t reach the blocks through the condition", time_matters),
    Promise(
        "its prediction depends on the class",
        "let the label reach the blocks; null_label is num_classes where there is a row for no class, else None",
        class_matters,
    ),
)
OF_AN_ARM = (
    Promise(
        "its own weights are the same beside registers",
        "make all weights in __init__, none in forward",
        own_weights_stay_as_they_are,
    ),
    Promise(
        "what is added changes the output and is trained",
        "let every block see all tokens, derive attention from harness.attention.MixesTokens, and call self.mixing",
        additions_change_the_output_and_are_trained,
    ),
    Promise(
        "with its registers left out it is the plain network",
        "keep no state between forward passes, and no dropout outside the recipe",
        without_registers_it_is_the_plain_network,
    ),
    Promise(
        "registers enter where they should, and leave",
        "hand on all tokens from step; cut none and add none but native_tokens; set trunks and patch_tokens",
        registers_enter_and_leave,
    ),
    Promise("one step lowers a toy loss", "see that a gradient reaches every weight", one_step_lowers_the_loss),
    Promise(
        "weights are saved and loaded strictly",
        "register every tensor as a parameter or a buffer",
        weights_are_saved_and_loaded_strictly,
    ),
    Promise(
        "an image does not depend on its batch",
        "normalise over no batch, and draw nothing in evaluation",
        an_image_does_not_depend_on_its_batch,
    ),
    Promise(
        "operations grow as computed",
        "say trunk_shapes, mlp_ratio and num_heads as they are built",
        operations_grow_as_computed,
    ),
    Promise("torch.compile makes one graph of it", "leave out Python that depends on tensors' values", is_traced_whole),
)


def _require(kept: bool, seen: str) -> None:  # noqa: FBT001 (as assert has it)
    if not kept:
        raise PromiseError(seen)


def _equal(seen: float, wanted: float, what: str) -> None:
    _require(seen == wanted, f"{what}: {seen:,.0f}, and {wanted:,.0f} are computed")


def _inputs(config: RunConfig, count: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    channels, side = config.latents.shape(config.task)
    x_NCHW = torch.randn(count, channels, side, side, generator=random)
    return x_NCHW, torch.rand(count, generator=random), torch.arange(count)


def _network(config: RunConfig) -> Network:
    return registry.backbone_of(config).size(config.size).model_validate(config.network)


def _awake(denoiser: Denoiser) -> Denoiser:
    """Gates and the last layer start at zero; here they let something through."""
    torch.manual_seed(1)
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return denoiser


def _with_weights_of(denoiser: Denoiser, plain: Denoiser) -> Denoiser:
    own = plain.state_dict()
    plain.load_state_dict({key: value for key, value in denoiser.state_dict().items() if key in own})
    return plain


def _loss(config: RunConfig, denoiser: Denoiser) -> Tensor:
    data, uniform, labels = _inputs(config)
    objective = objective_of(config)
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(2))
    times = objective.training_times(uniform * 0.5)
    weight = denoiser.loss_weight(data, times)
    return objective.loss(lambda x, t: denoiser(x, t, labels), data, noise, times, weight).mean()


def _lengths(denoiser: Denoiser, config: RunConfig) -> list[int]:
    """How many tokens each block hands on."""
    lengths: list[int] = []
    denoiser(*_inputs(config, 1), lambda _, tokens: lengths.append(tokens.shape[1]))
    return lengths


def _with_count(config: RunConfig, count: int) -> RunConfig:
    assert config.registers.denoiser is not None
    more = config.registers.denoiser.model_copy(update={"count": count})
    return config.model_copy(update={"registers": config.registers.model_copy(update={"denoiser": more})})


def _with_preset(config: RunConfig, preset: str) -> RunConfig:
    stage = dsr.EncoderStage(config.latents)
    registers = dsr.configure(preset, registry.backbone_of(config), _network(config), stage)
    return config.model_copy(update={"registers": registers})
