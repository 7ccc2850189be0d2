"""Which prompts a task has, by number: 0 is the empty one, then those that images are made for, then captions."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness.metrics.geneval.prompt import Prompt
from harness.spec import Task

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EMPTY = ""


def _shapes() -> tuple[Prompt, ...]:
    from harness.shapes.grammar import evaluation_prompts

    return evaluation_prompts()


def _geneval() -> tuple[Prompt, ...]:
    from harness.metrics.geneval.official_prompts import official_prompts

    return official_prompts()


_SETS: dict[str, Callable[[], tuple[Prompt, ...]]] = {"shapes": _shapes, "geneval": _geneval}


def prompts_of(task: Task) -> tuple[Prompt, ...]:
    """The prompts that images are made for, each as often as the others; none for a task of classes."""
    return _SETS[task.prompts]() if task.prompts else ()


def texts_of(task: Task, captions: Sequence[str]) -> tuple[str, ...]:
    """Every text that a denoiser of this task may be asked for, by its number."""
    return EMPTY, *(prompt.prompt for prompt in prompts_of(task)), *captions


def first_caption(task: Task) -> int:
    """The number of the first caption."""
    return 1 + len(prompts_of(task))


def asked_for(task: Task, num_images: int, indices: "npt.NDArray[np.int64]") -> "npt.NDArray[np.int64]":
    """The number of the prompt that each of `num_images` images is made for: all images of a prompt in a row."""
    return 1 + indices // (num_images // len(prompts_of(task)))
