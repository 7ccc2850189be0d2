"""A summary as measurements of a record (no torch)."""

from harness.comparability import Basis
from harness.metric_definitions import SHARE, SHARE_OF_PROMPTS
from harness.metrics.geneval.prompt import TAGS
from harness.metrics.geneval.summary import Share, Summary
from harness.records import Measurement


def measurements(summary: Summary, prefix: str, basis: Basis) -> list[Measurement]:
    """Shares between 0 and 1, under names that begin with `prefix`: "geneval", or "geneval_shapes".

    That very name is the mean over the six categories, and absent unless these six are there and no other.  The share
    of all right images, in which large categories weigh more, never goes by it.
    """
    of_images = {f"{prefix}_{tag}": share for tag, share in summary.tags.items()}
    if set(summary.tags) == set(TAGS):
        of_images = {prefix: summary.overall, **of_images}
    of_images[f"{prefix}_image_accuracy"] = summary.images
    measured = [_of_images(name, share, basis) for name, share in of_images.items()]
    return [*measured, _of_prompts(f"{prefix}_prompt_accuracy", summary, basis)]


def _of_images(name: str, share: Share, basis: Basis) -> Measurement:
    return Measurement(
        name=name,
        value=share.value,
        unit=SHARE,
        better="higher",
        num_images=share.total,
        basis=basis,
        parts={"correct": share.correct, "images": share.total, **_interval(share)},
        standard_error=_standard_error(share),
    )


def _of_prompts(name: str, summary: Summary, basis: Basis) -> Measurement:
    share = summary.prompts
    return Measurement(
        name=name,
        value=share.value,
        unit=SHARE_OF_PROMPTS,
        better="higher",
        num_images=summary.images.total,
        basis=basis,
        parts={"correct": share.correct, "prompts": share.total, **_interval(share)},
        standard_error=_standard_error(share),
    )


def _interval(share: Share) -> dict[str, float]:
    """The ends of the 95 % interval, where it is known."""
    return {"low": share.uncertainty.low, "high": share.uncertainty.high} if share.uncertainty else {}


def _standard_error(share: Share) -> float | None:
    return share.uncertainty.standard_error if share.uncertainty else None
