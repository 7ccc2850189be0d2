"""The newest measured values of every run, as the database has them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from statistics import fmean, stdev
from typing import NamedTuple

import duckdb

from harness.comparability import Key, ReferenceIdentity
from harness.registers import RegisterConfig
from harness.spec import RaeLatents, RunConfig

_ARMS = "SELECT arm_id, any_value(exact_name), any_value(config) FROM runs GROUP BY arm_id"

_RUNS = """
SELECT run_id, record_id, path, none_run_id, seed, status, arm_id FROM newest
ORDER BY task, exact_name, registers, seed, run_id
"""

_KEYS = """SELECT "key", none_key, name, title, fields FROM keys"""

_VALUES = """
SELECT run_id, record_id, path, m.value, m.num_images, m."key"
FROM judged JOIN measurements m USING (record_id) WHERE list_contains($metrics, m.name)
QUALIFY row_number() OVER (PARTITION BY run_id, m."key" ORDER BY record_id DESC) = 1
ORDER BY run_id, m.name, m."key"
"""


@dataclass(frozen=True, eq=False)
class Column:
    """What values of one comparability key have in common: thousands of them share one.

    `none_key` is the key that the matched value without registers has.
    """

    key: str
    none_key: str
    metric: str
    title: str
    fields: str

    @cached_property
    def comparability(self) -> Key:
        """The whole key."""
        return Key.model_validate_json(self.fields)

    @property
    def is_guided(self) -> bool:
        """Whether the judged images were sampled with guidance by a class or a weaker network."""
        basis = self.comparability.basis
        return basis is not None and basis.guidance.kind != "none"

    @property
    def reference(self) -> ReferenceIdentity | None:
        """What the judged images were compared with; None where they were compared with nothing."""
        basis = self.comparability.basis
        return basis.reference if basis else None

    def differences(self, base: "Column") -> list[str]:
        """What forbids to compare a value of this key with that of a run without registers, in words."""
        if base.key not in self._differences:
            mine = self.comparability.without_register_guidance()
            self._differences[base.key] = mine.differences(base.comparability)
        return self._differences[base.key]

    @cached_property
    def _differences(self) -> dict[str, list[str]]:
        return {}


class Value(NamedTuple):
    """One measured value: of which run, from which record, under which comparability key."""

    run_id: str
    record_id: str
    path: str
    value: float
    num_images: int | None
    column: Column


@dataclass(frozen=True, eq=False)
class Arm:
    """What runs are that differ in their seed alone; `config` is that of any of them."""

    arm_id: str
    exact_name: str
    config: RunConfig

    @property
    def task(self) -> str:
        return self.config.task.name

    @cached_property
    def name(self) -> str:
        """The preset, as far as the backbone has its stages: `dsr` without an encoder stage is `denoiser`."""
        registers = self.config.registers
        return "denoiser" if registers.preset == "dsr" and "encoder" in registers.absent_stages else registers.preset

    @property
    def registers(self) -> RegisterConfig:
        return self.config.registers

    @property
    def encoder(self) -> str:
        """The encoder whose tokens were learned, or ""."""
        latents = self.config.latents
        return latents.encoder if isinstance(latents, RaeLatents) else ""

    @property
    def is_stand_in(self) -> bool:
        """Whether patches under a fixed rotation stood in for an encoder's tokens."""
        return self.config.latents.kind == "stand-in"

    @property
    def count(self) -> int | None:
        """The number of registers in the denoiser."""
        denoiser = self.registers.denoiser
        return denoiser.count if denoiser else None

    @property
    def start_block(self) -> int | None:
        """The block of the denoiser before which its registers enter."""
        denoiser = self.registers.denoiser
        return denoiser.start_block if denoiser else None

    @property
    def depth(self) -> int:
        """The number of blocks of the denoiser."""
        return int(self.config.network["depth"])

    @property
    def epochs(self) -> float | None:
        """Passes over the training images; None where their number is not known."""
        images, recipe = self.config.task.num_training_images, self.config.recipe
        return self.config.training_steps * recipe.batch_size / images if images else None

    def is_equal_in(self, stages: Iterable[str], other: "Arm") -> bool:
        """Whether both have the same registers in these stages, "encoder" or "denoiser"."""
        return all(getattr(self.registers, stage) == getattr(other.registers, stage) for stage in stages)


class Run(NamedTuple):
    """The newest record of one run."""

    run_id: str
    record_id: str
    path: str
    none_run_id: str
    seed: int
    status: str
    arm: Arm


class Measured:
    """Every run with its values of some metrics."""

    def __init__(self, runs: Sequence[Run], values: Sequence[Value]) -> None:
        """`values` are in the order of their runs' ids, and of their metrics and keys."""
        self._runs = runs
        self._of_arms: dict[Arm, list[Run]] = {}
        self._siblings: dict[str, list[Run]] = {}
        for run in runs:
            self._of_arms.setdefault(run.arm, []).append(run)
            self._siblings.setdefault(run.none_run_id, []).append(run)
        self._of_runs = {run_id: list(found) for run_id, found in groupby(values, attrgetter("run_id"))}
        self._spreads: dict[str, list[tuple[float, float, int]]] = {}

    @classmethod
    def read(cls, database: duckdb.DuckDBPyConnection, metrics: Iterable[str]) -> "Measured":
        """Every run that the database has, with its values of these metrics."""
        arms = {row[0]: _arm(*row) for row in database.execute(_ARMS).fetchall()}
        columns = {row[0]: Column(*row) for row in database.execute(_KEYS).fetchall()}
        runs = database.execute(_RUNS).fetchall()
        values = database.execute(_VALUES, {"metrics": sorted(metrics)}).fetchall()
        return cls(
            [Run._make((*row, arms[arm_id])) for *row, arm_id in runs],
            [Value._make((*row, columns[key])) for *row, key in values],
        )

    def runs_of(self, families: Sequence[str], arms: Sequence[str]) -> list[Run]:
        """The runs of these families with these arms, by name."""
        wanted = {arm for arm in self._of_arms if arm.name in arms and arm.config.backbone in families}
        return [run for run in self._runs if run.arm in wanted]

    def siblings(self, run: Run) -> list[Run]:
        """The runs that differ from this one in their registers alone, seed and all; this one too."""
        return self._siblings.get(run.none_run_id, [])

    def values(self, run: Run, metrics: Sequence[str]) -> list[Value]:
        """A run's values of these metrics, one for each comparability key."""
        return [value for value in self._of_runs.get(run.run_id, ()) if value.column.metric in metrics]

    def is_measured(self, task: str, metrics: Sequence[str]) -> bool:
        """Whether any run of a task has a value of these metrics."""
        return any((task, metric) in self._measured for metric in metrics)

    def spreads(self, key: str) -> list[tuple[float, float, int]]:
        """(mean, sample standard deviation, seeds) of every arm that has several values under a key."""
        if key not in self._spreads:
            of_arms = [self._under(key, runs) for runs in self._of_arms.values()]
            several = [values for values in of_arms if len(values) > 1]
            self._spreads[key] = [(fmean(values), stdev(values), len(values)) for values in several]
        return self._spreads[key]

    def _under(self, key: str, runs: Sequence[Run]) -> list[float]:
        return [value.value for run in runs for value in self._of_runs.get(run.run_id, ()) if value.column.key == key]

    @cached_property
    def _measured(self) -> set[tuple[str, str]]:
        """Which tasks have values of which metrics."""
        found = {(run.arm, value.column) for run in self._runs for value in self._of_runs.get(run.run_id, ())}
        return {(arm.task, column.metric) for arm, column in found}


def _arm(arm_id: str, exact_name: str, config: str) -> Arm:
    return Arm(arm_id, exact_name, RunConfig.model_validate_json(config))
