"""Tell a person at a terminal what a run gave."""

from collections.abc import Sequence
from statistics import mean, stdev

from harness.intervals import COUNTED, PUBLISHED_VARIATION, Interval, of_one_pair, over_seeds, varies_as_fid
from harness.records import Measurement, RunRecord
from harness.run import Outcome
from harness.stages import stages


def report(outcome: Outcome) -> str:
    """What was trained, the table of results, where they are, and how to see them on the board."""
    record = outcome.record
    lines = [
        ("" if outcome.is_new else "stored result, nothing was run (--again makes a new one)\n") + _what(record),
        "",
        *_table(record, outcome.none),
        "",
        *_one_seed(record, outcome.none),
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
        where = f" at step {record.diverged_at_step} of {config.training_steps}" if record.diverged_at_step else ""
        ending = f"DIVERGED{where}: that is its result"
    else:
        ending = f"{config.training_steps} steps, then {config.protocol.num_images} images"
    name = config.exact_name + (f" (third-party: {config.third_party.file})" if config.third_party else "")
    return f"{name} on {config.task.name}, seed {config.seed}, {registers}\n{ending}, run {record.run_id}"


def _table(record: RunRecord, none: RunRecord | None) -> list[str]:
    rows = [("", "value", "to none", "")]
    rows += [(_name(record, m), _number(m.value), _difference(record, m, none), _unit(m)) for m in record.measurements]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"{name:<{widths[0]}}  {value:>{widths[1]}}  {gap:>{widths[2]}}  {unit}" for name, value, gap, unit in rows]


def _name(record: RunRecord, measurement: Measurement) -> str:
    """A metric's name, and where there are several of it what tells this one from the others."""
    is_alone = [each.name for each in record.measurements].count(measurement.name) == 1
    return measurement.name if is_alone or not measurement.basis else f"{measurement.name} {measurement.basis.words()}"


def _difference(record: RunRecord, measurement: Measurement, none: RunRecord | None) -> str:
    gap = _gap(record, measurement, none) if _is_compared(measurement) else None
    if gap is None:
        return ""
    return f"{'+' if gap >= 0 else '-'}{_number(abs(gap))}"


def _unit(measurement: Measurement) -> str:
    better = {"lower": ", lower is better", "higher": ", higher is better", "neither": ""}
    return measurement.unit + (better[measurement.better] if _is_judged(measurement) else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.4g}"


def _gap(record: RunRecord, measurement: Measurement, none: RunRecord | None) -> float | None:
    """The difference to the matched run's value of the same comparability key; None where there is none."""
    base = none and none.of_key(record.key(measurement).without_register_guidance())
    return measurement.value - base.value if base else None


def _one_seed(record: RunRecord, none: RunRecord | None) -> list[str]:
    """What the gap of one seed may be worth."""
    lines = []
    for measurement in record.measurements:
        gap = _gap(record, measurement, none) if _is_distance(measurement) else None
        if gap is not None:
            prior = of_one_pair(measurement.value, measurement.value - gap)
            lines.append(f"gap      {_sure(measurement, prior)}; small tasks vary more, --seeds 0-2 measures it")
    return lines


def report_of_seeds(outcomes: Sequence[Outcome]) -> list[str]:
    """The differences to the matched runs over all seeds, with their 95 % intervals; empty without matched runs."""
    gaps: dict[str, list[float]] = {}
    judged: dict[str, Measurement] = {}
    for outcome in outcomes:
        for measurement in filter(_is_judged, outcome.record.measurements):
            gap = _gap(outcome.record, measurement, outcome.none)
            if gap is not None:
                key = outcome.record.key(measurement).digest
                gaps.setdefault(key, []).append(gap)
                judged[key] = measurement
    found = {key: over_seeds(mean(each), stdev(each), len(each)) for key, each in gaps.items() if len(each) > 1}
    return [f"to none  {_sure(judged[key], interval)}" for key, interval in found.items() if interval]


def _sure(measurement: Measurement, interval: Interval) -> str:
    origin = {
        "seeds": f"Student's t over {interval.pairs} training seeds",
        "prior": f"by what one training's FID varies on ImageNet, {PUBLISHED_VARIATION:.1%}",
        "counted": "counted",
    }[interval.method]
    answer = "the interval holds zero: nothing is shown" if interval.shows_nothing else "the interval excludes zero"
    if interval.method == "prior" and not interval.shows_nothing:
        answer = "one seed shows nothing yet"
    name = f"{measurement.name} {measurement.basis.words() if measurement.basis else ''}".strip()
    return f"{name}: {interval.mean:+.4g} ± {interval.half_width:.4g} (95 %, {origin}): {answer}"


def _is_judged(measurement: Measurement) -> bool:
    return measurement.basis is not None


def _is_compared(measurement: Measurement) -> bool:
    return _is_judged(measurement) or measurement.name in COUNTED


def _is_distance(measurement: Measurement) -> bool:
    return _is_judged(measurement) and varies_as_fid(measurement.name)
