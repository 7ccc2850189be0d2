"""What our measured runs say about each published claim: confirmed, contradicted, inconclusive, not yet measured."""

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from harness.claims import Claim, Difference, Level, OutOfReach, Setting
from harness.database import DATABASE, rebuild, snapshot
from harness.errors import UserError
from harness.intervals import COUNTED, FEWEST, Interval, exactly, of_one_pair, over_seeds, variation_of, varies_as_fid
from harness.published import CLAIMS, PUBLISHED, Published, read_published
from leaderboard.measured import Measured, Run, Value

Verdict = Literal["confirmed", "contradicted", "inconclusive", "not yet measured"]

# 100,000 steps of 1,024 images are the papers' 80 epochs, and are 79.9.
WHOLE: Final = 0.99


@dataclass(frozen=True)
class Pair:
    """One seed: a run's value, and its matched baseline's under the same key (None for a claim about one arm)."""

    run: Run
    value: Value
    base_run: Run | None = None
    base: Value | None = None

    @property
    def difference(self) -> float:
        """The value less that of the baseline, or the value itself where there is none."""
        return self.value.value - (self.base.value if self.base else 0.0)


@dataclass(frozen=True)
class Refusal:
    """Two runs that would be a pair, were their values measured alike; `reasons` say what is not equal."""

    run: Run
    base_run: Run
    metric: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """What one arm's runs say about a claim, under one comparability key.

    `bounds` are where the claim has the difference (or the value), in the metric's unit; `interval` is the 95 %
    interval of that over training seeds, or for one seed by the published prior, None where that prior is not of this
    metric.  `below_scale` says what keeps the runs from the published scale; they have it where it is empty.
    """

    claim_id: str
    task: str
    backbone: str
    arm: str
    against: str
    metric: str
    title: str
    key: str
    pairs: tuple[Pair, ...]
    mean: float
    interval: Interval | None
    bounds: tuple[float | None, float | None]
    verdict: Verdict
    below_scale: tuple[str, ...]

    @property
    def changed_nothing(self) -> bool:
        """Whether all pairs are equal to the last digit: the treatment did not take hold, and nothing follows."""
        return self.against != "" and self.metric not in COUNTED and all(pair.difference == 0 for pair in self.pairs)


@dataclass(frozen=True)
class Judgement:
    """A claim with all that was measured of it; `verdict` is that at the published scale alone.

    `refused` are pairs whose values may not be compared, `unmatched` runs without a baseline, `set_aside` runs over
    stand-in latents, which are no representation, `diverged` runs of the claim's arms that gave no value.
    """

    claim: Claim
    verdict: Verdict
    rows: tuple[Row, ...]
    refused: tuple[Refusal, ...]
    unmatched: tuple[Run, ...]
    set_aside: tuple[Run, ...]
    diverged: tuple[Run, ...]


def judge(results: Path) -> tuple[Published, list[Judgement]]:
    """The published record, and each of its claims against all runs below `results`.

    Raises UserError where there are no valid claims.
    """
    published = read_published(results)
    if not published.claims:
        wrong = "; ".join(f"{path.name}: {reason}" for path, reason in published.problems)
        raise UserError(
            f"there are no claims in {results / PUBLISHED}" + (f" ({wrong})" if wrong else ""),
            f"name the folder that has {PUBLISHED}/{CLAIMS}.json by --results: the project's own is results",
        )
    rebuild(results)
    with contextlib.closing(snapshot(results / DATABASE)) as database:
        measured = Measured.read(database)
    return published, [_judged(claim, measured) for claim in published.claims]


def _judged(claim: Claim, measured: Measured) -> Judgement:
    test = claim.test
    if isinstance(test, OutOfReach):
        return Judgement(claim, "not yet measured", (), (), (), (), ())
    wanted = test.treatments if isinstance(test, Difference) else (test.registers,)
    all_runs = measured.runs_of(test.families, wanted)
    runs = [run for run in all_runs if not run.is_stand_in]
    if isinstance(test, Difference):
        found = list(_compared(test, runs, measured))
        pairs = [each for each in found if isinstance(each, Pair)]
        refused = tuple(each for each in found if isinstance(each, Refusal))
        unmatched = tuple(run for run in runs if not _baselines(test, run, measured))
    else:
        pairs = [Pair(run, value) for run in runs for value in measured.values(run, test.metrics)]
        refused, unmatched = (), ()
    rows = tuple(_row(claim, test, group, measured) for group in _groups(pairs))
    return Judgement(
        claim,
        _unanimous({row.verdict for row in rows if not row.below_scale}),
        rows,
        refused,
        unmatched,
        tuple(run for run in all_runs if run.is_stand_in),
        tuple(run for run in runs if run.status == "diverged"),
    )


def _compared(test: Difference, treated: Sequence[Run], measured: Measured) -> Iterator[Pair | Refusal]:
    """Every value of a run beside the value of its baseline under the same key, or why there is none."""
    for run in treated:
        for base_run in _baselines(test, run, measured):
            candidates = measured.values(base_run, test.metrics)
            by_key = {candidate.key: candidate for candidate in candidates}
            for value in measured.values(run, test.metrics):
                if value.key in by_key:
                    yield Pair(run, value, base_run, by_key[value.key])
                elif candidates:
                    reasons = min((value.differences(other) for other in candidates), key=len)
                    yield Refusal(run, base_run, value.metric, tuple(reasons))


def _baselines(test: Difference, run: Run, measured: Measured) -> list[Run]:
    """The runs that differ from this one in their registers alone, and there as the claim wants."""
    return [
        other
        for other in measured.siblings(run)
        if other.arm == test.baseline and all(run.stage(name) == other.stage(name) for name in test.equal_stages)
    ]


def _groups(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs of the same two arms under the same key, which differ in their seed alone."""
    groups: dict[tuple[str, str, str], list[Pair]] = {}
    for pair in pairs:
        base = pair.base_run.arm_id if pair.base_run else ""
        groups.setdefault((pair.run.arm_id, base, pair.value.key), []).append(pair)
    return list(groups.values())


def _row(claim: Claim, test: Difference | Level, pairs: Sequence[Pair], measured: Measured) -> Row:
    first = pairs[0]
    mean = statistics.fmean(pair.difference for pair in pairs)
    scale = statistics.fmean(pair.base.value for pair in pairs if pair.base) if first.base else 1.0
    least, most = (None if bound is None else bound * scale for bound in (test.least, test.most))
    interval = _interval(pairs, mean, measured)
    row = Row(
        claim_id=claim.id,
        task=first.run.task,
        backbone=first.run.exact_name,
        arm=first.run.arm,
        against=first.base_run.arm if first.base_run else "",
        metric=first.value.metric,
        title=first.value.title,
        key=first.value.key,
        pairs=tuple(pairs),
        mean=mean,
        interval=interval,
        bounds=(least, most),
        verdict="inconclusive",
        below_scale=tuple(_below_scale(claim.setting, first)),
    )
    if interval is None or interval.method == "prior" or row.changed_nothing:
        return row
    return replace(row, verdict=verdict_of(interval, least, most))


def _interval(pairs: Sequence[Pair], mean: float, measured: Measured) -> Interval | None:
    """Over seeds where there are several; by the published prior where there is one, of a distance like FID."""
    first = pairs[0]
    if first.value.metric in COUNTED:
        return exactly(mean, len(pairs))
    if len(pairs) >= FEWEST:
        return over_seeds(mean, statistics.stdev(pair.difference for pair in pairs), len(pairs))
    if first.base is None or not varies_as_fid(first.value.metric):
        return None
    return of_one_pair(first.value.value, first.base.value, variation_of(measured.spreads(first.value.key)))


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
    run, value = pair.run, pair.value
    if run.task != setting.task:
        yield f"task {run.task}, not {setting.task}"
        return
    if not setting.backbones:
        yield "no size of ours is the published one"
    elif run.exact_name not in setting.backbones:
        yield f"{run.exact_name}, not {' or '.join(setting.backbones)}"
    if setting.encoders and run.encoder not in setting.encoders:
        yield f"latents of {run.encoder or 'no encoder'}, not {' or '.join(setting.encoders)}"
    if setting.count is not None and run.count != setting.count:
        yield f"{run.count} registers, not {setting.count}"
    if value.metric != setting.metric:
        yield f"{value.metric}, not {setting.metric}"
    if value.is_guided != setting.guided:
        yield "guided, the published figures are not" if value.is_guided else "unguided, the published figures are not"
    if setting.epochs is not None and (run.epochs is None or run.epochs < WHOLE * setting.epochs):
        yield f"{'unknown' if run.epochs is None else format(run.epochs, '.3g')} epochs, not {setting.epochs:g}"
    if value.num_images is not None and value.num_images < setting.num_images:
        yield f"{value.num_images} images, not {setting.num_images}"
