"""What our measured runs say about each published claim: confirmed, contradicted, inconclusive, not yet measured."""

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import duckdb

from harness.claims import FRECHET, Claim, Difference, Level, OutOfReach, Setting
from harness.database import DATABASE, rebuild, snapshot
from harness.errors import UserError
from harness.intervals import COUNTED, FEWEST, Interval, exactly, of_one_pair, over_seeds, variation_of, varies_as_fid
from harness.published import CLAIMS, PUBLISHED, Figure, Published
from leaderboard import quoted
from leaderboard.measured import Arm, Column, Measured, Run, Value

Verdict = Literal["confirmed", "contradicted", "inconclusive", "not yet measured"]

# 100,000 steps of 1,024 images are the papers' 80 epochs, and are 79.9.
WHOLE: Final = 0.99

NO_VALUE: Final = "the run has no value of this metric (not judged)"
NO_BASE: Final = "the baseline has no value of this metric (diverged, or not judged)"


@dataclass(frozen=True)
class Pair:
    """One seed: a run's value, and its matched baseline's that it is compared with (None for a claim about one arm)."""

    run: Run
    value: Value
    base_run: Run | None = None
    base: Value | None = None

    @property
    def column(self) -> Column:
        """What the run's value is of."""
        return self.value.column

    @property
    def difference(self) -> float:
        """The value less that of the baseline, or the value itself where there is none."""
        return self.value.value - (self.base.value if self.base else 0.0)


@dataclass(frozen=True)
class Refusal:
    """A run that would count, were its value there, or measured like that of `base_run`."""

    run: Run
    base_run: Run | None
    metric: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """What one arm's runs say about a claim, under one comparability key.

    `bounds` are where the claim has the difference (or the value), in the metric's unit; `interval` is the 95 %
    interval of that over training seeds, or for one seed by the published prior, None where that prior is not of this
    metric.  `below_scale` says what keeps the runs from the published scale; they have it where it is empty.
    `another_reference` says that their values are not known to be against what the published ones are against, or "".
    """

    claim_id: str
    pairs: tuple[Pair, ...]
    mean: float
    interval: Interval | None
    bounds: tuple[float | None, float | None]
    verdict: Verdict
    below_scale: tuple[str, ...]
    another_reference: str

    @property
    def task(self) -> str:
        return self.pairs[0].run.arm.task

    @property
    def backbone(self) -> str:
        """The exact name, such as `rae-dit-xl`."""
        return self.pairs[0].run.arm.exact_name

    @property
    def arm(self) -> str:
        return self.pairs[0].run.arm.name

    @property
    def against(self) -> str:
        """The baseline's arm, or "" for a claim about one arm."""
        base_run = self.pairs[0].base_run
        return base_run.arm.name if base_run else ""

    @property
    def metric(self) -> str:
        return self.pairs[0].column.metric

    @property
    def title(self) -> str:
        """What the values are called: "fid against val-50k (inception-clean)"."""
        return self.pairs[0].column.title

    @property
    def key(self) -> str:
        """The comparability key of the runs' values; the baselines' may differ in guidance by registers."""
        return self.pairs[0].column.key

    @property
    def changed_nothing(self) -> bool:
        """Whether all pairs are equal to the last digit: the treatment did not take hold, and nothing follows."""
        return _changed_nothing(self.pairs)

    @property
    def interval_in_words(self) -> str:
        """From where to where, or why there is nothing: "−4.1 to +0.3"."""
        if self.changed_nothing:
            return "changed nothing"
        if self.interval is None:
            return "one seed"
        prior = ", by what others vary" if self.interval.method == "prior" else ""
        return f"{self.interval.low:+.4g} to {self.interval.high:+.4g}".replace("-", "−") + prior

    @property
    def bounds_in_words(self) -> str:
        """Where the claim has the number: "below 0", "above 2 and below 3"."""
        least, most = self.bounds
        words = [f"above {least:.4g}"] if least is not None else []
        words += [f"below {most:.4g}"] if most is not None else []
        return " and ".join(words).replace("-", "−")

    @property
    def as_published(self) -> Verdict:
        """What follows for the claim as it was made, from runs at its scale: nothing against another reference."""
        return "inconclusive" if self.another_reference else self.verdict


@dataclass(frozen=True)
class Judgement:
    """A claim with all that was measured of it; `verdict` is that at the published scale alone.

    `refused` are runs whose values are missing or may not be compared, `unmatched` runs without a baseline, `set_aside`
    runs over stand-in latents, which are no representation, `diverged` runs of the claim's arms, matched baselines too.
    """

    claim: Claim
    verdict: Verdict
    rows: tuple[Row, ...] = ()
    refused: tuple[Refusal, ...] = ()
    unmatched: tuple[Run, ...] = ()
    set_aside: tuple[Run, ...] = ()
    diverged: tuple[Run, ...] = ()

    def on(self, task: str) -> Verdict:
        """What the runs of one task say, whatever their scale: their verdict where they agree."""
        return _unanimous({row.verdict for row in self.rows if row.task == task})


def judge(results: Path) -> tuple[Published, list[Judgement]]:
    """`judgements` of all runs below `results`, from a database that is built anew.

    Raises UserError where there are no valid claims.
    """
    rebuild(results)
    with contextlib.closing(snapshot(results / DATABASE)) as database:
        return judgements(database)


def judgements(database: duckdb.DuckDBPyConnection) -> tuple[Published, list[Judgement]]:
    """The published record in a database, and each of its claims against all runs there.

    Raises UserError where there are no valid claims.
    """
    published = quoted.read(database)
    if not published.claims:
        wrong = "; ".join(f"{path.name}: {reason}" for path, reason in published.problems)
        raise UserError(
            f"there are no claims in {PUBLISHED}/{CLAIMS}.json" + (f" ({wrong})" if wrong else ""),
            f"name the folder that has {PUBLISHED}/{CLAIMS}.json by --results: the project's own is results",
        )
    tests = [claim.test for claim in published.claims if not isinstance(claim.test, OutOfReach)]
    measured = Measured.read(database, {metric for test in tests for metric in test.metrics})
    figures = published.figures
    return published, [
        _judged(claim, [figures[name] for name in claim.figures], measured) for claim in published.claims
    ]


def _judged(claim: Claim, figures: Sequence[Figure], measured: Measured) -> Judgement:
    test = claim.test
    if isinstance(test, OutOfReach):
        return Judgement(claim, "not yet measured")
    wanted = test.treatments if isinstance(test, Difference) else (test.registers,)
    all_runs = measured.runs_of(test.families, wanted)
    runs = [run for run in all_runs if not run.arm.is_stand_in]
    baselines: dict[str, list[Run]] = {}
    if isinstance(test, Difference):
        baselines = {run.run_id: _baselines(test, run, measured) for run in runs}
        found = [
            each for run in runs for base in baselines[run.run_id] for each in _compared(test, run, base, measured)
        ]
    else:
        found = [Pair(run, value) for run in runs for value in measured.values(run, test.metrics)]
    pairs = [each for each in found if isinstance(each, Pair)]
    refused = [each for each in found if isinstance(each, Refusal)]
    rows = tuple(_row(claim, figures, group, measured) for group in _groups(pairs))
    involved = [*runs, *(base for found in baselines.values() for base in found)]
    return Judgement(
        claim,
        _unanimous({row.as_published for row in rows if not row.below_scale}),
        rows,
        refused=(*refused, *_not_judged(claim, test, runs, measured)),
        unmatched=tuple(run for run in runs if run.run_id in baselines and not baselines[run.run_id]),
        set_aside=tuple(run for run in all_runs if run.arm.is_stand_in),
        diverged=tuple(dict.fromkeys(run for run in involved if run.status == "diverged")),
    )


def _compared(test: Difference, run: Run, base_run: Run, measured: Measured) -> Iterator[Pair | Refusal]:
    """Every value of a run beside the value of its baseline that it may be compared with, or why there is none."""
    for value in measured.values(run, test.metrics):
        column = value.column
        candidates = measured.values(base_run, (column.metric,))
        base = next((candidate for candidate in candidates if candidate.column.key == column.none_key), None)
        if base:
            yield Pair(run, value, base_run, base)
        else:
            reasons = min((column.differences(other.column) for other in candidates), key=len, default=[NO_BASE])
            yield Refusal(run, base_run, column.metric, tuple(reasons))


def _not_judged(claim: Claim, test: Difference | Level, runs: Sequence[Run], measured: Measured) -> Iterator[Refusal]:
    """Runs that finished without a value where one is to be expected: at the claim's task, or where others have it."""
    for run in runs:
        if run.status == "finished" and not measured.values(run, test.metrics):
            task = run.arm.task
            if task == claim.setting.task or measured.is_measured(task, test.metrics):
                yield Refusal(run, None, test.metric, (NO_VALUE,))


def _baselines(test: Difference, run: Run, measured: Measured) -> list[Run]:
    """The runs that differ from this one in their registers alone, and there as the claim wants."""
    return [
        other
        for other in measured.siblings(run)
        if other.arm.name == test.baseline and run.arm.is_equal_in(test.equal_stages, other.arm)
    ]


def _groups(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs of the same two arms under the same key, which differ in their seed alone."""
    groups: dict[tuple[str, str, str], list[Pair]] = {}
    for pair in pairs:
        base = pair.base_run.arm.arm_id if pair.base_run else ""
        groups.setdefault((pair.run.arm.arm_id, base, pair.column.key), []).append(pair)
    return list(groups.values())


def _row(claim: Claim, figures: Sequence[Figure], pairs: Sequence[Pair], measured: Measured) -> Row:
    assert not isinstance(claim.test, OutOfReach), "what cannot be tested has no pairs"
    mean = statistics.fmean(pair.difference for pair in pairs)
    interval = _interval(pairs, mean, measured)
    least, most = _bounds(claim.test, pairs)
    return Row(
        claim_id=claim.id,
        pairs=tuple(pairs),
        mean=mean,
        interval=interval,
        bounds=(least, most),
        verdict=_verdict(pairs, interval, least, most),
        below_scale=tuple(_below_scale(claim.setting, pairs[0])),
        another_reference=_another_reference(claim.setting, figures, pairs[0].column),
    )


def _bounds(test: Difference | Level, pairs: Sequence[Pair]) -> tuple[float | None, float | None]:
    """Where the claim has the mean of these pairs, in the metric's unit: a difference as a share of the baselines'."""
    bases = [pair.base.value for pair in pairs if pair.base]
    scale = statistics.fmean(bases) if bases else 1.0
    return (
        None if test.least is None else test.least * scale,
        None if test.most is None else test.most * scale,
    )


def _changed_nothing(pairs: Sequence[Pair]) -> bool:
    return pairs[0].column.metric not in COUNTED and all(pair.base and pair.difference == 0 for pair in pairs)


def _interval(pairs: Sequence[Pair], mean: float, measured: Measured) -> Interval | None:
    """Over seeds where there are several; by the published prior where there is one, of a distance like FID."""
    first = pairs[0]
    if first.column.metric in COUNTED:
        return exactly(mean, len(pairs))
    if len(pairs) >= FEWEST:
        return over_seeds(mean, statistics.stdev(pair.difference for pair in pairs), len(pairs))
    if first.base is None or not varies_as_fid(first.column.metric):
        return None
    return of_one_pair(first.value.value, first.base.value, variation_of(measured.spreads(first.column.key)))


def _verdict(pairs: Sequence[Pair], interval: Interval | None, least: float | None, most: float | None) -> Verdict:
    """Inconclusive for one seed, and where the treatment did not take hold."""
    if interval is None or interval.method == "prior" or _changed_nothing(pairs):
        return "inconclusive"
    return verdict_of(interval, least, most)


def verdict_of(interval: Interval, least: float | None, most: float | None) -> Verdict:
    """Confirmed where the interval lies wholly where the claim has it, contradicted where it lies wholly elsewhere."""
    if (least is None or interval.low > least) and (most is None or interval.high < most):
        return "confirmed"
    if (least is not None and interval.high < least) or (most is not None and interval.low > most):
        return "contradicted"
    return "inconclusive"


def _unanimous(verdicts: set[Verdict]) -> Verdict:
    """The verdict of all rows where they agree; where they do not, nothing is concluded."""
    if not verdicts:
        return "not yet measured"
    return next(iter(verdicts)) if len(verdicts) == 1 else "inconclusive"


def _below_scale(setting: Setting, pair: Pair) -> Iterator[str]:
    """What keeps a pair from bearing on the claim as it was published."""
    arm, column, num_images = pair.run.arm, pair.column, pair.value.num_images
    if arm.task != setting.task:
        yield f"task {arm.task}, not {setting.task}"
        return
    if not setting.backbones:
        yield "no size of ours is the published one"
    elif arm.exact_name not in setting.backbones:
        yield f"{arm.exact_name}, not {' or '.join(setting.backbones)}"
    if setting.encoders and arm.encoder not in setting.encoders:
        yield f"latents of {arm.encoder or 'no encoder'}, not {' or '.join(setting.encoders)}"
    yield from _other_registers(setting, arm)
    if column.metric != setting.metric:
        yield f"{column.metric}, not {setting.metric}"
    if column.is_guided != setting.guided:
        yield "guided, the published figures are not" if column.is_guided else "unguided, the published figures are not"
    if setting.epochs is not None and (arm.epochs is None or arm.epochs < WHOLE * setting.epochs):
        yield f"{'unknown' if arm.epochs is None else format(arm.epochs, '.3g')} epochs, not {setting.epochs:g}"
    if num_images is not None and num_images < setting.num_images:
        yield f"{num_images} images, not {setting.num_images}"


def _other_registers(setting: Setting, arm: Arm) -> Iterator[str]:
    """In what a run's registers, or what it has in their place, are not known to be the published ones."""
    if setting.treatments == ():
        yield "no preset of ours is known to be the published treatment"
    elif setting.treatments is not None and arm.name not in setting.treatments:
        yield f"{arm.name}, not {' or '.join(setting.treatments)}"
    if setting.count is not None and arm.count != setting.count:
        yield f"{arm.count} registers, not {setting.count}"
    start = setting.start_blocks.get(arm.depth)
    if start is not None and arm.start_block != start:
        yield f"registers from block {arm.start_block} of {arm.depth}, not {start}"


def _another_reference(setting: Setting, figures: Sequence[Figure], column: Column) -> str:
    """That a distance is not known to be to the published reference, by its name and split; "" where it is."""
    if column.metric not in FRECHET or column.metric != setting.metric:
        return ""
    ours = column.reference
    against = f"against {ours.name} (split {ours.split})" if ours else "against a reference without a name"
    rest_on = [figure for figure in figures if figure.metric == setting.metric]
    names = " and ".join(sorted({figure.reference for figure in rest_on} - {""})) or "not named"
    if not (rest_on and all(figure.reference_confirmed for figure in rest_on)):
        return f"{against}; the published reference is not confirmed ({names})"
    published = {(figure.reference.removesuffix(".npz"), figure.reference_split) for figure in rest_on}
    if ours and published == {(ours.name, ours.split)}:
        return ""
    splits = " and ".join(sorted({figure.reference_split or "not stated" for figure in rest_on}))
    return f"{against}; the published reference is {names} (split {splits})"
