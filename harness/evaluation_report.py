"""Tell a person at a terminal what an evaluation or a reference is."""

from collections.abc import Sequence

from harness.comparability import UNKNOWN
from harness.evaluating import Evaluated
from harness.evaluation_records import EvaluationRecord
from harness.records import Measurement
from harness.references import Checked
from harness.text_table import columns

ALONE = "by itself"
BETTER = {"lower": ", lower is better", "higher": ", higher is better", "neither": ""}


def report(evaluated: Evaluated) -> str:
    """What was judged, a row for each number with a column for each reference, what nobody said, where it is kept."""
    record = evaluated.record
    images = record.images
    lines = [] if evaluated.is_new else ["stored result, nothing was evaluated (--again makes a new one)"]
    lines += [
        f"{images.num_images:,} images of {images.channels} x {images.height} x {images.width} in {images.name}"
        + (f", run {record.run_id}" if record.run_id else ""),
        "",
        columns(value_rows(record.measurements)),
        "",
    ]
    if unknown := _unknown(record):
        lines.append(
            f"unknown  {', '.join(unknown)}: comparable only where these are unknown too (--declare says them)"
        )
    lines += [f"declared {words}" for words in record.declared]
    lines += [f"note     {note}" for note in (*record.notes, *notes_of(record.measurements))]
    return "\n".join([*lines, f"record   {evaluated.path}"])


def value_rows(measurements: Sequence[Measurement]) -> list[list[str]]:
    """Metric by reference; what was judged without a reference in a column of its own."""
    places = list(dict.fromkeys(map(_place, measurements)))
    rows = [["", *places, ""]]
    for name in dict.fromkeys(m.name for m in measurements):
        found = {_place(m): m for m in measurements if m.name == name}
        first = next(iter(found.values()))
        cells = [_cell(found[place]) if place in found else "" for place in places]
        rows.append([name, *cells, first.unit + BETTER[first.better]])
    return rows


def notes_of(measurements: Sequence[Measurement]) -> list[str]:
    """What is said of values, once each, with the names of all that it is said of."""
    said: dict[str, list[str]] = {}
    for measurement in measurements:
        if measurement.note:
            said.setdefault(measurement.note, []).append(measurement.name)
    return [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in said.items()]


def reference_rows(checked: Sequence[Checked]) -> str:
    """A line for each reference: what is inside, and, where something is wrong, what."""
    head = ["reference", "extractor", "split", "crop", "images", "moments", "features", "identity", "made", "state"]
    rows = [head]
    for each in checked:
        manifest, reference = each.manifest, each.manifest.reference
        spatial = f" + {manifest.spatial_width}" if manifest.spatial_width else ""
        rows.append(
            [
                reference.name,
                manifest.extractor.name + (" (declared)" if manifest.is_declared else ""),
                reference.split,
                reference.crop,
                f"{reference.num_images:,}" if reference.num_images else UNKNOWN,
                f"{manifest.width}{spatial}",
                f"{manifest.num_features:,}",
                reference.sha256[:12],
                manifest.kind,
                each.problem or "sound",
            ]
        )
    return columns(rows)


def _place(measurement: Measurement) -> str:
    basis = measurement.basis
    if basis is None or basis.extractor is None:
        return ALONE
    against = f"against {basis.reference.name}" if basis.reference else ALONE
    return f"{against} ({basis.extractor.name})"


def _cell(measurement: Measurement) -> str:
    error = measurement.standard_error
    return f"{measurement.value:.5g}" + (f" ± {error:.2g}" if error is not None else "")


def _unknown(record: EvaluationRecord) -> list[str]:
    names = [name for name, value in record.conditions if value == UNKNOWN]
    guided = any(m.basis and m.basis.guidance.kind == UNKNOWN for m in record.measurements)
    return names + (["guidance"] if guided else [])
