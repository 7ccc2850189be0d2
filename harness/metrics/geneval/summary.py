"""How many images are right, by category and over all, with how sure that is (no torch)."""

# P prompts of a category, R resamples, 4 counts of a prompt: _RIGHT_IMAGES and _RIGHT_PROMPTS

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.errors import UserError
from harness.metrics.geneval.verdicts import PromptVerdicts

RESAMPLES: Final = 10_000
CONFIDENCE: Final = 0.95
SEED: Final = 0

Numbers = npt.NDArray[Any]

# Where the counts are: right images and images; 1 where an image is right, and 1.
_RIGHT_IMAGES: Final = (0, 1)
_RIGHT_PROMPTS: Final = (2, 3)


@dataclass(frozen=True)
class Uncertainty:
    """By how much a share would vary with other prompts of the same kind: its standard error and 95 % interval."""

    standard_error: float
    low: float
    high: float


@dataclass(frozen=True)
class Share:
    """`correct` of `total` images or prompts; `value` is their quotient, or a mean of such.

    `uncertainty` is None where it is not known, because a category has a single prompt.
    """

    value: float
    correct: int
    total: int
    uncertainty: Uncertainty | None


@dataclass(frozen=True)
class Summary:
    """What GenEval reports.

    `tags` are the shares of right images of each category, in the order in which categories first occur; `overall` is
    their mean, in which each counts alike: GenEval's score.  `images` is the share of all right images, `prompts` that
    of the prompts of which at least one image is right.
    """

    tags: Mapping[str, Share]
    overall: Share
    images: Share
    prompts: Share


def summarise(verdicts: Sequence[PromptVerdicts]) -> Summary:
    """The shares of right images, and by a bootstrap how sure they are.

    Images of one prompt are right or wrong together: prompts are drawn again, each with all of its images, and within
    their category, because categories are given and count alike.  An error is 0 where all prompts agree.  One prompt
    says nothing of others: the errors of its category, and of all that this is a part of, are not known.
    The same verdicts give the same numbers.  Raises UserError without prompts, and for one without images.
    """
    random = np.random.default_rng(SEED)
    tallies = {tag: _tally(counts_P4, random) for tag, counts_P4 in _counts(verdicts).items()}
    everything = _together(list(tallies.values()))
    tags = {tag: tally.share(_RIGHT_IMAGES) for tag, tally in tallies.items()}
    images = everything.share(_RIGHT_IMAGES)
    drawn_R = np.mean([tally.drawn_shares(_RIGHT_IMAGES) for tally in tallies.values()], axis=0)
    overall = Share(
        value=float(np.mean([share.value for share in tags.values()])),
        correct=images.correct,
        total=images.total,
        uncertainty=_uncertainty(drawn_R) if everything.varies else None,
    )
    return Summary(tags, overall, images, everything.share(_RIGHT_PROMPTS))


def official_report(summary: Summary) -> str:
    """What the official tool prints, for whoever compares: nothing here prints it."""
    tasks = [f"{tag:<16} = {task.value:.2%} ({task.correct} / {task.total})" for tag, task in summary.tags.items()]
    return "\n".join(
        [
            "Summary",
            "=======",
            f"Total images: {summary.images.total}",
            f"Total prompts: {summary.prompts.total}",
            f"% correct images: {summary.images.value:.2%}",
            f"% correct prompts: {summary.prompts.value:.2%}",
            "",
            "Task breakdown",
            "==============",
            *tasks,
            "",
            f"Overall score (avg. over tasks): {summary.overall.value:.5f}",
            "",
        ]
    )


def _counts(verdicts: Sequence[PromptVerdicts]) -> dict[str, Numbers]:
    """(P, 4) of each category, in the order in which they first occur."""
    rows: dict[str, list[tuple[int, int, int, int]]] = {}
    for each in verdicts:
        if not each.images:
            raise UserError(f"the prompt {each.prompt.prompt!r} has no images", "make them, or leave the prompt out")
        correct = sum(image.correct for image in each.images)
        rows.setdefault(each.prompt.tag, []).append((correct, len(each.images), min(correct, 1), 1))
    if not rows:
        raise UserError("there are no prompts whose images could be right", "give one prompt at least")
    return {tag: np.array(of_tag) for tag, of_tag in rows.items()}


@dataclass(frozen=True)
class _Tally:
    """Sums of the 4 counts over some prompts, (4,) as they are and (R, 4) drawn again; `varies` if draws can differ."""

    counted: Numbers
    drawn: Numbers
    varies: bool

    def share(self, of: tuple[int, int]) -> Share:
        right, total = of
        correct, number = int(self.counted[right]), int(self.counted[total])
        return Share(correct / number, correct, number, _uncertainty(self.drawn_shares(of)) if self.varies else None)

    def drawn_shares(self, of: tuple[int, int]) -> Numbers:
        right, total = of
        shares_R: Numbers = self.drawn[:, right] / self.drawn[:, total]
        return shares_R


def _tally(counts_P4: Numbers, random: np.random.Generator) -> _Tally:
    """As many prompts are drawn as there are, with replacement."""
    number = len(counts_P4)
    times_RP = random.multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
    return _Tally(counts_P4.sum(axis=0), times_RP @ counts_P4, varies=number > 1)


def _together(tallies: Sequence[_Tally]) -> _Tally:
    return _Tally(
        np.sum([tally.counted for tally in tallies], axis=0),
        np.sum([tally.drawn for tally in tallies], axis=0),
        varies=all(tally.varies for tally in tallies),
    )


def _uncertainty(values_R: Numbers) -> Uncertainty:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return Uncertainty(float(np.std(values_R, ddof=1)), float(low), float(high))
