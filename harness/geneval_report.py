"""Tell a person at a terminal what GenEval says of a folder of images."""

from collections.abc import Iterator

from harness.comparability import UNKNOWN
from harness.evaluating import Evaluated
from harness.evaluation_report import notes_of, value_rows
from harness.metric_definitions import GENEVAL
from harness.metrics.geneval.prompt import TAGS
from harness.records import Measurement
from harness.text_table import columns

_TITLES = {
    GENEVAL: "GenEval",
    **{f"{GENEVAL}_{tag}": tag for tag in TAGS},
    f"{GENEVAL}_image_accuracy": "image accuracy",
    f"{GENEVAL}_prompt_accuracy": "prompt accuracy",
}
_ABOUT = {
    GENEVAL: "mean of the six categories",
    f"{GENEVAL}_image_accuracy": "of all images alike, not GenEval's score",
    f"{GENEVAL}_prompt_accuracy": "prompts with at least one right image",
}


def report(evaluated: Evaluated) -> str:
    """What was judged, a row for each category and mean with its 95 % interval, by whom, and where it is kept.

    What else was measured follows in a table of its own.
    """
    record = evaluated.record
    images = record.images
    shares = [each for each in record.measurements if each.name.startswith(GENEVAL)]
    others = [each for each in record.measurements if each not in shares]
    lines = [] if evaluated.is_new else ["stored result, nothing was evaluated (--again makes a new one)"]
    lines += [
        f"{images.num_images:,} images of {images.channels} x {images.height} x {images.width} in {images.name}",
        "",
        columns([["", "share", "95 % interval", "right", ""], *map(_row, shares)]),
        "",
        *([columns(value_rows(others)), ""] if others else []),
        *_judged_by(shares[0]),
    ]
    if unknown := [name for name, value in record.conditions if value == UNKNOWN]:
        lines.append(
            f"unknown  {', '.join(unknown)}: comparable only where these are unknown too (--declare says them)"
        )
    lines += [f"declared {words}" for words in record.declared]
    lines += [f"note     {note}" for note in (*record.notes, *notes_of(others))]
    return "\n".join([*lines, f"record   {evaluated.path}"])


def _row(measurement: Measurement) -> list[str]:
    parts = measurement.parts
    interval = f"{parts['low']:.1%} to {parts['high']:.1%}" if "low" in parts else "not known"
    right = f"{parts['correct']:,.0f} of {parts['prompts' if 'prompts' in parts else 'images']:,.0f}"
    name = measurement.name
    title = _TITLES.get(name, name.removeprefix(f"{GENEVAL}_"))
    return [title, f"{measurement.value:.1%}", interval, right, _ABOUT.get(name, "")]


def _judged_by(measurement: Measurement) -> Iterator[str]:
    basis = measurement.basis
    assert basis is not None, "GenEval always says whose verdicts these are"
    assert basis.extractor is not None
    assert basis.reference is not None
    yield f"prompts  {basis.reference.name} (SHA-256 {basis.reference.sha256[:12]})"
    yield f"judge    {basis.extractor.name}: {basis.settings}"
