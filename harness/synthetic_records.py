"""Valid records of runs that never were, as many as a bench of the store asks for (no torch)."""

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from harness.errors import UserError
from harness.progress import Progress
from harness.records import Measurement, RunRecord
from harness.store import path_of, read_all

# Seeds that no one runs.
FIRST_SEED = 1_000_000
SPREAD = 0.1


def write_synthetic(results: Path, into: Path, count: int) -> None:
    """Fill a results folder with `count` records: those of `results`, with other seeds and values, and no pictures.

    Every arm has every seed, so that each finds its matched one.  Raises UserError where `results` has no record.
    """
    with Progress("synthetic records", count) as progress:
        for record in synthetic(results, count):
            path = path_of(into, record)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
            progress.advance(1)


def synthetic(results: Path, count: int) -> Iterator[RunRecord]:
    """So many records, made from the newest one of every arm below `results`.  Raises UserError where there is none."""
    newest = {stored.record.config.arm_id: stored.record for stored in read_all(results)[0]}
    if not newest:
        raise UserError(
            f"there is no record in {results} to make others from", "name a folder with records by --results"
        )
    arms, draw = list(newest.values()), random.Random(0)  # noqa: S311 - values, not secrets
    for index in range(count):
        yield _another(arms[index % len(arms)], index, FIRST_SEED + index // len(arms), draw)


def _another(record: RunRecord, index: int, seed: int, draw: random.Random) -> RunRecord:
    config = record.config.model_copy(update={"seed": seed})
    return record.model_copy(
        update={
            "run_id": config.run_id,
            "created": record.created - timedelta(seconds=index),  # never in the future
            "config": config,
            "circumstances": record.circumstances.model_copy(update={"seed": seed}),
            "measurements": tuple(_moved(measurement, draw) for measurement in record.measurements),
            "samples": None,
        }
    )


def _moved(measurement: Measurement, draw: random.Random) -> Measurement:
    """Another value of what was judged, within its bounds; what was counted, or follows from statistics, stays."""
    if measurement.basis is None or measurement.basis.extractor is None:
        return measurement
    value = measurement.value * draw.uniform(1 - SPREAD, 1 + SPREAD)
    most = 1.0 if measurement.unit.startswith("share") else value
    return measurement.model_copy(update={"value": min(value, most)})
