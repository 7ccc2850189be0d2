"""Count again what a configuration costs, once for each that there is, and compare it with what records say."""

import functools
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from harness.contributing.verdict import Breach
from harness.errors import UserError
from harness.files import write_text
from harness.frozen import Frozen
from harness.plain_files import NotPlainError, read_plain
from harness.provenance import PACKAGES, ROOT
from harness.records import RunRecord
from harness.spec import RunConfig

# A name that git ignores with the database's.
KEPT: Final = ".leaderboard.duckdb.counted.json"
MOST_KEPT_BYTES: Final = 64 * 2**20
COUNTED: Final = ("parameters", "trainable_parameters", "gflops", "nfe", "gflops_per_image")
# Records of the first schema lack the last of them.
LAST_OF_THE_FIRST_SCHEMA: Final = datetime(2026, 11, 21, 9, 32, tzinfo=UTC)
_TOLERANCE: Final = 1e-9
_REMEDY: Final = "submit the numbers that the run itself counted; `python -m harness describe` shows them"

# The configuration is a stranger's: whatever stops the building of its network is what is wrong with it.
_UNBUILDABLE: Final = (
    *(UserError, AssertionError, ArithmeticError, AttributeError, LookupError, TypeError),
    *(ValueError, RuntimeError, MemoryError, NotImplementedError),
)

Counts = dict[str, float]


class _Kept(Frozen):
    """What was counted, by the digest of the code that counted it."""

    code: str
    counts: dict[str, Counts | str]


class Recounting:
    """Counts of configurations; torch is imported for the first that is not known yet."""

    def __init__(self, results: Path) -> None:
        self._place = results / KEPT
        self._code = _code_sha256()
        self._known: dict[str, Counts | str] = self._read()
        self._of_arms: dict[str, Counts | str] = {}
        self._is_changed = False

    def breaches(self, record: RunRecord, arm_id: str) -> Iterator[Breach]:
        """Counted numbers of a record that its configuration, which can be built, does not give."""
        if arm_id not in self._of_arms:
            self._of_arms[arm_id] = self._counts(record.config)
        due = self._of_arms[arm_id]
        if isinstance(due, str):
            yield Breach("configuration", f"its network cannot be built: {due}", _REMEDY)
            return
        told = {measurement.name: measurement.value for measurement in record.measurements}
        is_old = record.created <= LAST_OF_THE_FIRST_SCHEMA
        for name in COUNTED:
            value, counted = told.get(name), due.get(name)
            if value is None:
                if counted is not None and not (is_old and name == "gflops_per_image"):
                    yield Breach("cost", f"it does not say {name}", _REMEDY)
            elif counted is None:
                yield Breach("cost", f"it says {name}, which its solver decides image by image", _REMEDY)
            elif abs(value - counted) > _TOLERANCE * max(abs(counted), 1e-12):
                yield Breach("cost", f"{name} is {value:.10g}, and its configuration gives {counted:.10g}", _REMEDY)
        if record.circumstances.nfe != due.get("nfe"):
            told_nfe = record.circumstances.nfe
            yield Breach("cost", f"its circumstances say nfe {told_nfe}, and its sampler {due.get('nfe')}", _REMEDY)

    def keep(self) -> None:
        """Write down what was counted, for the next time."""
        if self._is_changed:
            write_text(self._place, json.dumps({"code": self._code, "counts": self._known}, sort_keys=True) + "\n")

    def _counts(self, config: RunConfig) -> Counts | str:
        key = _key(config)
        if key not in self._known:
            self._known[key] = _counted(config)
            self._is_changed = True
        return self._known[key]

    def _read(self) -> dict[str, Counts | str]:
        """What was kept by the same code.  A damaged file is none."""
        try:
            kept = _Kept.model_validate_json(read_plain(self._place, MOST_KEPT_BYTES))
        except (NotPlainError, ValidationError):
            return {}
        return kept.counts if kept.code == self._code else {}


def _counted(config: RunConfig) -> Counts | str:
    """What this configuration costs, or why nothing can be built of it."""
    from harness.build import size_of
    from harness.metrics import cost

    try:
        found = cost.measurements(config, size_of(config))
    except _UNBUILDABLE as error:
        return ascii(str(error).split("\n")[0])[1:-1][:160] or type(error).__name__
    return {measurement.name: measurement.value for measurement in found}


def _key(config: RunConfig) -> str:
    """What the counts follow from."""
    decides = config.model_dump_json(include={"backbone", "network", "registers", "objective", "sampler", "text"})
    guidance = config.protocol.guidance.model_dump_json()
    return hashlib.sha256(f"{decides}{guidance}{config.latents.kind}".encode()).hexdigest()[:16]


@functools.cache
def _code_sha256() -> str:
    """Of all that can change a count."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
