"""Tell a person at a terminal what a run gave."""

from collections.abc import Sequence

from harness.records import Measurement, RunRecord
from harness.run import Outcome
from harness.store import stages

COMPARED = {"fd_digits", "digits_accuracy", "gflops", "parameters", "outlier_max_over_median"}


def report(outcome: Outcome) -> str:
    """What was trained, the table of results, where they are, and how to see them on the board."""
    record = outcome.record
    lines = [
        ("" if outcome.is_new else "stored result, nothing was run (--again makes a new one)\n") + _what(record),
        "",
        *_table(record, outcome.none),
        "",
        *(f"note     {note}" for note in record.notes),
        f"record   {outcome.path}",
    ]
    if record.samples is not None:
        lines.append(f"samples  {outcome.path.with_name(record.samples.file)}")
    lines.append("board    python -m harness board")
    return "\n".join(lines)


def _what(record: RunRecord) -> str:
    config = record.config
    denoiser = config.registers.denoiser
    registers = f"registers {config.registers.preset}: {stages(config)}"
    if denoiser is not None:
        registers += f", {denoiser.count} tokens from block {denoiser.start_block} of {config.network['depth']}"
    if record.status == "diverged":
        where = f" at step {record.diverged_at_step} of {config.recipe.steps}" if record.diverged_at_step else ""
        ending = f"DIVERGED{where}: that is its result"
    else:
        ending = f"{config.recipe.steps} steps, then {config.protocol.num_images} images"
    return f"{config.exact_name} on {config.task.name}, seed {config.seed}, {registers}\n{ending}, run {record.run_id}"


def _table(record: RunRecord, none: RunRecord | None) -> list[str]:
    rows = [("", "value", "to none", "")]
    rows += [(m.name, _number(m.value), _difference(m, none), _unit(m)) for m in record.measurements]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"{name:<{widths[0]}}  {value:>{widths[1]}}  {gap:>{widths[2]}}  {unit}" for name, value, gap, unit in rows]


def _difference(measurement: Measurement, none: RunRecord | None) -> str:
    base = none.value(measurement.name) if none and measurement.name in COMPARED else None
    if base is None:
        return ""
    gap = measurement.value - base
    return f"{'+' if gap >= 0 else '-'}{_number(abs(gap))}"


def _unit(measurement: Measurement) -> str:
    better = {"lower": ", lower is better", "higher": ", higher is better", "neither": ""}
    judged = measurement.name in ("fd_digits", "digits_accuracy")
    return measurement.unit + (better[measurement.better] if judged else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.4g}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
