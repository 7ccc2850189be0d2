"""Find the blocks of a pipeline's transformer, and which of the tokens that they put out are image patches, by running.

Nothing is known of a class but that blocks are members of ModuleLists.  The transformer is run once at each of two
image sizes: what a block puts out is of the image where its number of tokens follows the number of patches, and what
stays is text (or tokens of the network's own), beside it in another tensor or in the same sequence.
"""

# N batch, L tokens, D width

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import UserError, first_few
from harness.pipelines.opening import OpenPipeline, first_line

# As many tokens in any vocabulary, so that only their content differs.
PROMPT, ANOTHER_PROMPT = "a photo of a dog", "a photo of a cat"
_NAMED = 6

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """A block, which of the tensors that it puts out holds the patches, and whether these end its sequence.

    `others` are the tokens beside the patches in the same sequence.
    """

    name: str
    module: nn.Module
    output: int
    others: int
    at_end: bool = True

    def patches(self, output: Any, count: int) -> Tensor:
        """The patches among what the block put out, (N, count, D)."""
        tokens_NLD = tensors(output)[self.output]
        return tokens_NLD[:, tokens_NLD.shape[1] - count :] if self.at_end else tokens_NLD[:, :count]


@dataclass(frozen=True)
class Structure:
    """All blocks in the order in which they run, and which row of a batch of one image is that of its prompt.

    With classifier-free guidance a batch has a further row, without the prompt: in most pipelines the first, and
    found by what changes with the prompt.
    `beside` are the tokens in the transformer that are no patches, as far as blocks put them out.
    """

    blocks: tuple[Block, ...]
    row: int
    beside: int


def find_structure(pipeline: OpenPipeline) -> Structure:
    """The blocks and patches of a pipeline's transformer.

    Raises UserError, saying what was looked for and what was found, where there are none.
    """
    height = pipeline.identity.height
    first = _traced(pipeline, PROMPT, height)
    second = _traced_at_another_height(pipeline)
    grown = first.count - second.count
    if not grown:
        raise _nothing_found(pipeline, first, "another image size gives it as many patches")
    blocks = _outermost(list(_candidates(first, second)))
    if not blocks:
        raise _nothing_found(pipeline, first, "no member of a ModuleList follows the number of patches")
    return Structure(
        blocks=tuple(_placed(pipeline, first, blocks)),
        row=_row_of_prompt(pipeline, first),
        beside=_beside(first, second),
    )


def rows_of_an_image(pipeline: OpenPipeline) -> int | None:
    """How many rows the transformer is given for an image (2: classifier-free guidance); None where nobody can say."""
    rows: list[int | None] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        latents = inputs_of(module, args, kwargs).get("hidden_states")
        rows.append(len(latents) if isinstance(latents, Tensor) else None)
        raise _EnoughError

    with ExitStack() as hooks:
        hooks.callback(pipeline.transformer.register_forward_pre_hook(enter, with_kwargs=True).remove)
        with suppress(_EnoughError):
            pipeline.images(PROMPT, [0])
    return rows[0] if rows else None


def inputs_of(transformer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of the transformer by their names."""
    return dict(inspect.signature(transformer.forward).bind(*args, **kwargs).arguments)


def count_patches(transformer: nn.Module, inputs: Mapping[str, Any]) -> int:
    """How many patches there are of one image: from latents (N, C, h, w) and the patch size, or already (N, L, D).

    Raises UserError for a transformer that takes neither.
    """
    latents = inputs.get("hidden_states")
    shape = tuple(latents.shape) if isinstance(latents, Tensor) else None
    if shape is not None and len(shape) == 3:
        return shape[1]
    patch = getattr(transformer, "config", {}).get("patch_size")
    if shape is None or len(shape) != 4 or not isinstance(patch, int):
        raise UserError(
            f"the patches of {type(transformer).__name__} cannot be counted: hidden_states of (N, C, h, w) and a "
            f"patch_size, or of (N, L, D), were looked for, and found were {shape or 'none'} and patch_size {patch}",
            "its outliers cannot be probed: set pipeline.probe=false to sample and score it all the same",
        )
    return math.prod(side // patch for side in shape[2:])


def tensors(output: Any) -> list[Tensor]:
    """The tensors that a module put out, in their order."""
    each = output if isinstance(output, tuple | list) else [output]
    return [tensor for tensor in each if isinstance(tensor, Tensor)]


@dataclass
class _Trace:
    """One call of the transformer: its arguments, the number of patches, and what modules put out, as they ran."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    count: int = 0
    modules: dict[str, nn.Module] = field(default_factory=dict)
    shapes: dict[str, list[Shape]] = field(default_factory=dict)


class _EnoughError(Exception):
    """What ends a sampling as soon as the transformer was seen."""


def _traced_at_another_height(pipeline: OpenPipeline) -> _Trace:
    """At half the height, or at twice the height where a pipeline does not take that.

    Raises UserError where it takes neither.
    """
    height = pipeline.identity.height
    for other in (height // 2, 2 * height):
        try:
            return _traced(pipeline, PROMPT, other)
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError) as error:
            refused = first_line(error)
    raise UserError(
        f"{pipeline.identity.name} makes images of no other height than {height}, and by another its patches are told "
        f"from its text: {refused}",
        "choose another size: --set pipeline.height=512 --set pipeline.width=512",
    )


def _traced(pipeline: OpenPipeline, prompt: str, height: int, *, stop_before: bool = False) -> _Trace:
    """The first call of the transformer in a sampling, which is then given up."""
    trace, transformer = _Trace(), pipeline.transformer

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        trace.args, trace.kwargs = args, dict(kwargs)
        trace.inputs = inputs_of(module, args, kwargs)
        trace.count = count_patches(module, trace.inputs)
        if stop_before:
            raise _EnoughError

    def leave(*_: Any) -> None:
        raise _EnoughError

    with ExitStack() as hooks:
        hooks.callback(transformer.register_forward_pre_hook(enter, with_kwargs=True).remove)
        hooks.callback(transformer.register_forward_hook(leave).remove)
        for name, module in _members(transformer):
            hooks.callback(module.register_forward_hook(_noting(trace, name)).remove)
        try:
            pipeline.images(prompt, [0], height=height)
        except _EnoughError:
            return trace
    raise AssertionError("a pipeline that does not call its transformer")


def _members(transformer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in transformer.named_modules():
        if isinstance(module, nn.ModuleList):
            yield from ((f"{name}.{index}", member) for index, member in enumerate(module))


def _noting(trace: _Trace, name: str) -> Callable[..., None]:
    def note(module: nn.Module, _: Any, output: Any) -> None:
        trace.modules[name] = module
        trace.shapes[name] = [tuple(tensor.shape) for tensor in tensors(output)]

    return note


def _candidates(first: _Trace, second: _Trace) -> Iterator[Block]:
    """Modules with an output (N, L, D) whose L is the number of patches and what is the same at both sizes."""
    N = len(first.inputs["hidden_states"])
    for name, shapes in first.shapes.items():
        others = second.shapes.get(name, [])
        fitting = [
            (shape[1] - first.count, index)
            for index, (shape, other) in enumerate(zip(shapes, others, strict=False))
            if len(shape) == len(other) == 3
            and shape[0] == N
            and shape[1] - first.count == other[1] - second.count >= 0
        ]
        if fitting:
            beside, index = min(fitting)
            yield Block(name, first.modules[name], index, beside)


def _outermost(blocks: list[Block]) -> list[Block]:
    """Blocks that are not within others; those within end earlier, so they come first in a trace."""
    names = {block.name for block in blocks}
    inside = {name for name in names for other in names if name.startswith(f"{other}.")}
    return [block for block in blocks if block.name not in inside]


def _beside(first: _Trace, second: _Trace) -> int:
    """The most tokens that one block puts out beside the patches: those of tensors that do not follow their number."""
    counts = []
    for name, shapes in first.shapes.items():
        pairs = zip(shapes, second.shapes.get(name, []), strict=False)
        for shape, other in pairs:
            if len(shape) == len(other) == 3:
                counts.append(shape[1] if shape == other else shape[1] - first.count)
    return max(counts, default=0)


def _placed(pipeline: OpenPipeline, trace: _Trace, blocks: list[Block]) -> list[Block]:
    """The blocks with where the patches are in sequences that they share with text.

    What the last shared sequence holds elsewhere is overwritten with what is no number: an output that stays finite
    does not depend on it, as it does on every patch.
    """
    shared = [block for block in blocks if block.others]
    if not shared:
        return blocks
    for at_end in (True, False):
        tried = replace(shared[-1], at_end=at_end)
        if _is_finite_without_others(pipeline.transformer, trace, tried):
            return [replace(block, at_end=at_end) for block in blocks]
    raise _nothing_found(
        pipeline,
        trace,
        f"its image is made neither of the first nor of the last tokens of {shared[-1].name}",
    )


@torch.no_grad()
def _is_finite_without_others(transformer: nn.Module, trace: _Trace, block: Block) -> bool:
    def spoil(_: nn.Module, __: Any, output: Any) -> Any:
        spoilt = torch.full_like(tensors(output)[block.output], math.nan)
        block.patches(_with(output, block.output, spoilt), trace.count)[:] = block.patches(output, trace.count)
        return _with(output, block.output, spoilt)

    with _hooked(block.module, spoil):
        out = transformer(*trace.args, **trace.kwargs)
    sample = tensors(out if isinstance(out, tuple) else tuple(out.values()))[0]
    return bool(sample.isfinite().all())


def _with(output: Any, index: int, tensor: Tensor) -> Any:
    """What a module put out, with one of its tensors replaced."""
    if isinstance(output, Tensor):
        return tensor
    replaced, seen = [], -1
    for each in output:
        seen += isinstance(each, Tensor)
        replaced.append(tensor if isinstance(each, Tensor) and seen == index else each)
    return type(output)(replaced)


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _row_of_prompt(pipeline: OpenPipeline, trace: _Trace) -> int:
    """The row of the transformer's batch that changes with the prompt.

    Raises UserError where that is none, or several.
    """
    rows = len(trace.inputs["hidden_states"])
    other = _traced(pipeline, ANOTHER_PROMPT, pipeline.identity.height, stop_before=True)
    changed = {row for row in range(rows) for name in trace.inputs if _differs(trace, other, name, row)}
    if len(changed) != 1:
        raise _nothing_found(
            pipeline, trace, f"of {rows} rows for one image {sorted(changed) or 'none'} change with the prompt, not one"
        )
    return changed.pop()


def _differs(trace: _Trace, other: _Trace, name: str, row: int) -> bool:
    rows, one, two = len(trace.inputs["hidden_states"]), trace.inputs[name], other.inputs.get(name)
    if not (isinstance(one, Tensor) and isinstance(two, Tensor)) or not one.ndim or len(one) != rows:
        return False
    if one.shape != two.shape:  # a text of another length, which in a batch would be padded
        return rows == 1
    return not torch.equal(one[row], two[row])


def _nothing_found(pipeline: OpenPipeline, trace: _Trace, reason: str) -> UserError:
    lists = [
        f"{folder} ({len(list(members))} x {type(trace.modules[f'{folder}.0']).__name__}): "
        + " and ".join(map(str, trace.shapes[f"{folder}.0"]))
        for folder, members in groupby(sorted(trace.shapes), key=lambda name: name.rpartition(".")[0])
        if f"{folder}.0" in trace.shapes
    ]
    return UserError(
        f"the blocks of {type(pipeline.transformer).__name__} cannot be found: {reason}. Looked for were members of "
        f"its ModuleLists that put out (N, L, D) with {trace.count} patches in L; found were "
        f"{first_few(lists, _NAMED) or 'no ModuleLists that run'}",
        "its outliers cannot be probed: set pipeline.probe=false to sample and score it all the same",
    )
