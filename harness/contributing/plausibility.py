"""Whether what a record says can be true: values, statistics, dates and origin, each for itself (no torch)."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from harness.circumstances import circumstances_of
from harness.comparability import UNGUIDED, Conditions, guidance_used
from harness.contributing.evaluated import breaches_of_images
from harness.contributing.networks import blocks_of, network_of
from harness.contributing.values import is_judged, problems_of_measurement
from harness.contributing.verdict import Breach
from harness.evaluation_records import EvaluationRecord
from harness.metric_definitions import GENEVAL_SHAPES
from harness.outlier_records import OutlierStatistics, worst_of
from harness.records import Measurement, Provenance, RunRecord

# Its first commit; and how far clocks may be apart.
PROJECT_BEGAN: Final = datetime(2026, 11, 21, tzinfo=UTC)
CLOCKS_DIFFER: Final = timedelta(hours=1)

AS_MADE: Final = "submit the file as `run` wrote it, and change nothing by hand"
MOST_CURVE_POINTS, MOST_MEASUREMENTS = 1000, 500
SLACK = 1e-6

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_VERSION: Final = re.compile(r"\d{1,6}(\.\d{1,6}){0,5}((a|b|rc|\.?dev|\.?post)\d{1,8})*(\+[A-Za-z0-9.]{1,40})?")
_DEVICE: Final = re.compile(r"(cpu|cuda|mps|xpu|hip)(:\d{1,3})?")
_PRECISIONS: Final = ("float32", "tf32", "bf16")
# What a finished run has measured, by what its task is judged by.
_DUE: Final = {"fd_digits": frozenset({"fd_digits", "digits_accuracy"}), GENEVAL_SHAPES: frozenset({GENEVAL_SHAPES})}


def breaches_of_run(record: RunRecord, now: datetime) -> Iterator[Breach]:
    """Everything in a run's record that cannot be."""
    yield from breaches_of_date(record.created, now)
    yield from _circumstances(record)
    yield from _status(record)
    yield from _measurements(record.measurements, record.conditions)
    yield from _guidance(record)
    yield from _outliers(record)
    yield from _blocks(record)
    yield from _machine(record)
    yield from _curve(record)
    yield from _provenance(record.provenance)


def breaches_of_evaluation(record: EvaluationRecord, now: datetime) -> Iterator[Breach]:
    """Everything in an evaluation's record that cannot be."""
    yield from breaches_of_date(record.created, now)
    yield from _measurements(record.measurements, record.conditions)
    yield from _provenance(record.provenance)
    yield from breaches_of_images(record)


def breaches_of_bench(created: datetime, provenance: Provenance, now: datetime) -> Iterator[Breach]:
    """What cannot be of when and by what something was timed."""
    yield from breaches_of_date(created, now)
    yield from _provenance(provenance)


def remarks_of(provenance: Provenance) -> Iterator[str]:
    """What a reviewer should know of where a record comes from."""
    if provenance.commit is None:
        yield "it was made outside a git checkout: only the digest of its code is known"
    if provenance.dirty:
        yield "it was made by code with changes that are in no commit: it cannot be made again from the history"


def breaches_of_date(created: datetime, now: datetime) -> Iterator[Breach]:
    """When nothing can have been made."""
    if created.tzinfo is None:
        yield Breach("date", f"created is {created}, without a time zone", AS_MADE)
    elif created > now + CLOCKS_DIFFER:
        yield Breach("date", f"it was created on {created:%Y-%m-%d %H:%M}, which lies in the future", "mend the clock")
    elif created < PROJECT_BEGAN:
        yield Breach("date", f"it was created on {created:%Y-%m-%d}, before the project began", "mend the clock")


def _circumstances(record: RunRecord) -> Iterator[Breach]:
    told = record.circumstances
    given = circumstances_of(record.config, record.provenance, told.nfe, told.decoder_sha256 or None)
    different = [name for name, value in given if value != getattr(told, name)]
    if different:
        name = different[0]
        said, due = str(getattr(told, name))[:80], str(getattr(given, name))[:80]
        problem = f"its circumstances say {name} {said!a}, and its configuration {due!a}"
        yield Breach("conditions", problem, AS_MADE)


def _status(record: RunRecord) -> Iterator[Breach]:
    judged = [measurement.name for measurement in record.measurements if is_judged(measurement)]
    if record.status == "diverged":
        if judged or record.outliers or record.samples:
            what = judged[0] if judged else "norm statistics" if record.outliers else "a sample grid"
            yield Breach("status", f"it diverged, and has {what}: nothing was sampled from what diverged", AS_MADE)
        at, last = record.diverged_at_step, record.config.training_steps
        if at is not None and at > last:
            yield Breach("status", f"it diverged at step {at} of {last}", AS_MADE)
        return
    if record.diverged_at_step is not None:
        yield Breach("status", f"it finished, and diverged at step {record.diverged_at_step}", AS_MADE)
    missing = _DUE.get(record.config.task.metric, frozenset()) - set(judged)
    if missing:
        yield Breach("status", f"it finished, and lacks {' and '.join(sorted(missing))} of its task", AS_MADE)


def _measurements(measurements: tuple[Measurement, ...], conditions: Conditions) -> Iterator[Breach]:
    if len(measurements) > MOST_MEASUREMENTS:
        yield Breach("measurement", f"it has {len(measurements):,} measurements", f"at most {MOST_MEASUREMENTS} belong")
        return
    for measurement in measurements:
        for rule, problem in problems_of_measurement(measurement, conditions):
            yield Breach(rule, problem, AS_MADE)
    counted = Counter((m.name, m.basis) for m in measurements)
    for (name, _), count in counted.items():
        if count > 1:
            yield Breach("measurement", f"it has {name} {count} times under the same key", "keep the one that is right")


def _guidance(record: RunRecord) -> Iterator[Breach]:
    used = guidance_used(record.config)
    for measurement in record.measurements:
        if measurement.basis is not None and measurement.basis.guidance not in (used, UNGUIDED):
            told = measurement.basis.guidance.words() or "none"
            problem = f"{measurement.name} says guidance {told}, and the configuration {used.words() or 'none'}"
            yield Breach("conditions", problem, AS_MADE)


def _outliers(record: RunRecord) -> Iterator[Breach]:
    protocol = record.config.protocol
    counted = Counter((each.block, each.time) for each in record.outliers)
    twice = [place for place, count in counted.items() if count > 1]
    if twice:
        yield Breach("outliers", f"block {twice[0][0]} at t = {twice[0][1]} has statistics twice", AS_MADE)
    for each in record.outliers:
        where = f"block {each.block} at t = {each.time:g}"
        if each.time not in protocol.noise_levels:
            yield Breach("outliers", f"{where}: the protocol probes no such noise level", AS_MADE)
        if each.images is not None and each.images > protocol.outlier_images:
            yield Breach("outliers", f"{where}: {each.images} images of {protocol.outlier_images}", AS_MADE)
        yield from (Breach("outliers", f"{where}: {problem}", AS_MADE) for problem in _impossible(each))
    worst, told = worst_of(record.outliers), record.value("outlier_max_over_median")
    reached = None if worst is None else worst.max_over_median
    if told != reached:
        said = ["absent" if value is None else f"{value:g}" for value in (told, reached)]
        yield Breach("outliers", f"outlier_max_over_median is {said[0]}, and the statistics reach {said[1]}", AS_MADE)


def _blocks(record: RunRecord) -> Iterator[Breach]:
    """Whether the blocks are the network's.  Of a third party's is only known that it has no block without the last."""
    blocks = sorted({each.block for each in record.outliers})
    network = network_of(record.config)
    depth = len(blocks) if network is None else blocks_of(network)
    if blocks and blocks[-1] >= depth:
        what = "blocks are left out" if network is None else f"the network has {depth}, from 0"
        yield Breach("outliers", f"its statistics go to block {blocks[-1]}: {what}", AS_MADE)


def _machine(record: RunRecord) -> Iterator[Breach]:
    """Numbers that only some machines and decoders have."""
    decoder, device = record.circumstances.decoder_sha256, record.provenance.device
    if decoder and (not _SHA256.fullmatch(decoder) or record.config.latents.kind == "pixels"):
        yield Breach("conditions", f"its circumstances name a decoder, {decoder[:20]!a}, that no run has", AS_MADE)
    if record.value("decoder_gflops") is not None and not decoder:
        yield Breach("cost", "it says decoder_gflops, and no network decodes its images", AS_MADE)
    if record.value("mfu") is not None and not device.startswith("cuda"):
        yield Breach("measurement", f"it says mfu, and {device[:20]!a} has no known peak", AS_MADE)
    held = next((each.unit for each in record.measurements if each.name == "peak_memory"), None)
    if held is not None and ("GPU" in held) != device.startswith("cuda"):
        yield Breach("measurement", f"its peak_memory is in {held[:60]!a}, and it ran on {device[:20]!a}", AS_MADE)


def _impossible(each: OutlierStatistics) -> Iterator[str]:
    """What one block's statistics say against each other."""
    falling = ["share_above_3x", "share_above_5x", "share_above_10x"]
    shares = [(name, value) for name in falling if (value := getattr(each, name)) is not None]
    for (more, larger), (fewer, smaller) in itertools.pairwise(shares):
        if smaller > larger + SLACK:
            yield f"{fewer} is {smaller:g}, above {more}, {larger:g}"
    if each.max_over_median < 1 - SLACK and each.median_norm > 0:
        yield f"the largest norm is {each.max_over_median:g} medians, below one"
    if each.top_over_median is not None and each.top_over_median > each.max_over_median * (1 + SLACK) + SLACK:
        yield f"top_over_median is {each.top_over_median:g}, above max_over_median, {each.max_over_median:g}"
    if each.images_above_3x is not None and each.images_above_3x + SLACK < each.share_above_3x:
        yield f"images_above_3x is {each.images_above_3x:g}, below share_above_3x, {each.share_above_3x:g}"
    kinds = ("patches", "native", "text", "registers", "sink")
    parts = [getattr(each, f"attention_{kind}") for kind in kinds]
    known = [part for part in parts if part is not None]
    if known and abs(sum(known) - 1) > 1e-3:
        yield f"the attention that tokens receive adds up to {sum(known):g}, not 1"


def _curve(record: RunRecord) -> Iterator[Breach]:
    steps = [step for step, _ in record.loss_curve]
    last = record.config.training_steps
    if len(steps) > MOST_CURVE_POINTS:
        yield Breach("curve", f"the loss curve has {len(steps):,} points, and at most {MOST_CURVE_POINTS:,}", AS_MADE)
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        yield Breach("curve", "the loss curve's steps do not ascend", AS_MADE)
    if steps and (max(steps) > last or record.config.weights is not None):
        yield Breach("curve", f"the loss curve goes to step {max(steps)} of a training of {last}", AS_MADE)
    if any(loss < 0 for _, loss in record.loss_curve):
        yield Breach("curve", "the loss curve falls below 0", AS_MADE)


def _provenance(provenance: Provenance) -> Iterator[Breach]:
    if provenance.commit is not None and not _COMMIT.fullmatch(provenance.commit):
        yield Breach("provenance", f"the commit {provenance.commit[:60]!a} is not 40 hexadecimal digits", AS_MADE)
    if not _SHA256.fullmatch(provenance.code_sha256):
        yield Breach("provenance", "code_sha256 is not 64 hexadecimal digits", AS_MADE)
    missing = {"python", "torch", "numpy"} - provenance.versions.keys()
    if missing:
        yield Breach("provenance", f"it does not say which version of {', '.join(sorted(missing))} made it", AS_MADE)
    for name, version in provenance.versions.items():
        if not _VERSION.fullmatch(version):
            yield Breach("provenance", f"{version[:60]!a} is no version of {name[:60]!a}", AS_MADE)
    if not _DEVICE.fullmatch(provenance.device):
        yield Breach("provenance", f"{provenance.device[:60]!a} is no device", AS_MADE)
    if provenance.precision not in _PRECISIONS:
        yield Breach("provenance", f"{provenance.precision[:60]!a} is no precision", AS_MADE)
