"""Tell a person at a terminal which register neurons a search found."""

from collections.abc import Sequence

from dsr.neurons import Round
from harness.encoder_records import OUTLIER, PatchChange
from harness.finding import Effect, Finding


def report(finding: Finding, shown: int = 20) -> str:
    """The verdict, the best neurons of each round, and the effect."""
    if finding.neurons is None:
        return f"{finding.encoder}: {finding.verdict} ({finding.judged_on} of {finding.images} images looked at)"
    lines = [
        f"{finding.encoder}: {finding.verdict} (norms above {OUTLIER:g} medians, {finding.judged_on} images)",
        f"{finding.neurons.count} neurons, found in {finding.images} images",
    ]
    for number, one in enumerate(finding.neurons.found, 1):
        lines += _told_round(number, one, shown)
    return "\n".join([*lines, "", *_told_effect(finding.effect)])


def _told_round(number: int, one: Round, shown: int) -> list[str]:
    search = one.search
    more = [f"  ... and {len(one.ranked) - shown} more"] * (len(one.ranked) > shown)
    return [
        "",
        f"round {number}: {one.outlier_tokens:,} of {one.tokens:,} tokens above {search.threshold:.4g} after layer "
        f"{search.layer}, in {one.images_with_outliers} of {one.images} images",
        *(f"  layer {layer:>2}  neuron {neuron:>5}  score {value:.4g}" for layer, neuron, value in one.ranked[:shown]),
        *more,
    ]


def _told_effect(effect: Effect | None) -> Sequence[str]:
    if effect is None:
        return []
    return [
        f"largest norm over the median after layer {effect.layer}, mean over {effect.images} images (worst):",
        f"  {effect.before:.2f} ({effect.worst_before:.2f}), "
        f"with registers {effect.after:.2f} ({effect.worst_after:.2f})",
        "how far the other patches of images with outliers moved:",
        f"  with registers              {_told_change(effect.others)}",
        f"  with one value per neuron   {_told_change(effect.others_per_neuron)}",
        f"  with outliers set to zero   {_told_change(effect.others_zeroing)}",
    ]


def _told_change(change: PatchChange | None) -> str:
    if change is None:
        return "no image has outliers"
    return f"cosine {change.cosine:.4f}, moved by {change.relative_difference:.4f} of their norm"
