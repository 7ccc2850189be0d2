"""The report of `check`, in Markdown: to be pasted into a pull request."""

from collections.abc import Iterator, Mapping, Sequence

from harness import registry
from harness.contributing.check import NONE, Answer, Checked
from harness.intervals import of_one_pair, varies_as_fid
from harness.outlier_records import verdict_of
from harness.records import Measurement
from harness.run import Outcome

SHOWN_DIGITS = 12


def report(checked: Checked) -> str:
    """All of it: promises, costs, what the digits gave, versions and machine."""
    backbone = registry.backbone_of(checked.config)
    sections = [
        f"# Check of the backbone {checked.config.backbone}: {verdict(checked)}",
        _table(["", ""], _identity(checked, backbone.title, backbone.source)),
        "## Promises",
        _table(["promise", "", "tried with", "seen"], [_promise(answer) for answer in checked.answers]),
        *_remedies(checked),
        "## Costs",
        f"{checked.config.exact_name} on {checked.config.task.name}, counted; one forward pass, 2 x multiply-adds.",
        _table(["registers", "parameters", "to none", "GFLOPs", "to none"], _costs(checked)),
        "## Digits",
        *_digits(checked),
        "## Made by",
        _table(["", ""], _made_by(checked)),
    ]
    return "\n\n".join(sections) + "\n"


def verdict(checked: Checked) -> str:
    """`all 15 promises are kept`, or how many are not."""
    broken = sum(1 for answer in checked.answers if answer.broken)
    total = len(checked.answers)
    return f"{broken} of {total} promises are broken" if broken else f"all {total} promises are kept"


def _identity(checked: Checked, title: str, source: str) -> list[list[str]]:
    asked, own = checked.asked, checked.config.third_party
    sets = "".join(f" --set {change}" for change in asked.changes)
    rows = [["backbone", f"{title} ({checked.config.exact_name})"], ["source", source]]
    rows += [["file of a third party", f"{own.file}, SHA-256 {own.sha256}"]] if own else []
    quick = " --quick" if asked.is_quick else ""
    return [*rows, ["command", f"python -m harness check {asked.backbone}{sets}{quick}"]]


def _promise(answer: Answer) -> list[str]:
    tried = answer.presets[0] if len(answer.presets) == 1 else f"{len(answer.presets)} presets"
    if not answer.broken:
        return [answer.promise.text, "pass", tried, ""]
    by_reason: dict[str, list[str]] = {}
    for preset, seen in answer.broken.items():
        by_reason.setdefault(seen, []).append(preset)
    seen = "; ".join(f"{', '.join(presets)}: {reason}" for reason, presets in by_reason.items())
    return [answer.promise.text, "FAIL", tried, seen]


def _remedies(checked: Checked) -> list[str]:
    broken = [answer.promise for answer in checked.answers if answer.broken]
    lines = [f"* {promise.text}: {promise.remedy}" for promise in broken]
    return ["Where to look:", "\n".join(lines)] if lines else []


def _costs(checked: Checked) -> list[list[str]]:
    base = checked.sizes[NONE]
    return [
        [
            preset,
            f"{size.parameters:,}",
            _share(size.parameters, base.parameters),
            f"{size.flops / 1e9:.4g}",
            _share(size.flops, base.flops),
        ]
        for preset, size in checked.sizes.items()
    ]


def _share(value: float, base: float) -> str:
    return "" if value == base else f"{(value / base - 1) * 100:+.2f} %"


def _digits(checked: Checked) -> Iterator[str]:
    if not checked.runs:
        yield "Not run: " + ("--quick trains nothing." if checked.passes else "a promise is broken.")
        return
    plain, *others = checked.runs
    yield _table(
        ["", *(_name(outcome) for outcome in checked.runs), *(f"{_name(other)} - none" for other in others)],
        [*_measured(plain, others), _outliers(checked.runs), _runs(checked.runs)],
    )
    yield (
        f"A rehearsal in {plain.record.config.training_steps:,} steps, one seed each, and no results: a difference "
        "inside its interval shows nothing. `run --seeds 0-2` measures it."
    )


def _name(outcome: Outcome) -> str:
    return outcome.record.config.registers.preset


def _measured(plain: Outcome, others: Sequence[Outcome]) -> Iterator[list[str]]:
    """What was judged, and the seconds of training; a run that diverged has no images to judge."""
    for measured in plain.record.measurements:
        if measured.basis is None and measured.name != "train_seconds":
            continue
        key = plain.record.key(measured)
        theirs = [other.record.of_key(other.record.key(measured)) for other in others]
        values = [f"{each.value:.4g}" if each else "" for each in (measured, *theirs)]
        gaps = [_gap(each, measured) if each and measured.basis else "" for each in theirs]
        yield [f"{key.metric} ({measured.unit})", *values, *gaps]


def _gap(theirs: Measurement, base: Measurement) -> str:
    gap = f"{theirs.value - base.value:+.4g}"
    if not varies_as_fid(base.name):
        return gap
    return f"{gap} ± {of_one_pair(theirs.value, base.value).half_width:.4g}"


def _outliers(runs: Sequence[Outcome]) -> list[str]:
    said = [verdict_of(each.record.outliers) if each.record.outliers else each.record.status for each in runs]
    return ["outlier tokens", *said, *("" for _ in runs[1:])]


def _runs(runs: Sequence[Outcome]) -> list[str]:
    said = [f"{each.record.run_id}, {each.record.status}" for each in runs]
    return ["run", *said, *("" for _ in runs[1:])]


def _made_by(checked: Checked) -> list[list[str]]:
    made_by = checked.provenance
    commit = made_by.commit or "no checkout"
    told: Mapping[str, str] = {
        "commit": f"{commit}{', with changes' if made_by.dirty else ''}",
        "code": f"SHA-256 {made_by.code_sha256[:SHOWN_DIGITS]}",
        "versions": ", ".join(f"{name} {version}" for name, version in made_by.versions.items()),
        "machine": ", ".join(f"{name} {value}" for name, value in made_by.machine.items()),
        "computed on": f"{made_by.device}, {made_by.precision}, {made_by.threads} threads",
    }
    return [[name, text] for name, text in told.items()]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """A text that stays in its cell."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
