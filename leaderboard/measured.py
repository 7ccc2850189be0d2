"""The newest measured values of every run, as the database has them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb

from harness.comparability import Key, ReferenceIdentity
from harness.spec import RaeLatents, RunConfig

# A run that was repeated has several records: the newest counts, never the best.
_RUNS = """
SELECT run_id, record_id, path, arm_id, none_run_id, seed, status, config, exact_name
FROM runs QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY record_id DESC) = 1
ORDER BY task, exact_name, registers, seed, run_id
"""

# A later evaluation of a run's own samples counts as the run's, under the conditions that it was made with, unless the
# run was made anew after it: record ids begin with their time.
_VALUES = f"""
WITH latest AS ({_RUNS}),
judged AS (
    SELECT run_id, record_id, path FROM latest
    UNION ALL
    SELECT run_id, e.record_id, e.path FROM evaluations e JOIN latest USING (run_id)
    WHERE e.record_id > latest.record_id
)
SELECT run_id, record_id, path, m.name, m.value, m.num_images, m.key, keys.none_key, m.title, keys.fields
FROM judged JOIN measurements m USING (record_id) JOIN keys ON keys.key = m.key
QUALIFY row_number() OVER (PARTITION BY run_id, m.key ORDER BY record_id DESC) = 1
ORDER BY m.name, m.key
"""


@dataclass(frozen=True)
class Value:
    """One measured value: of which metric, under which comparability key, from which record.

    `none_key` is the key that the matched value without registers has.
    """

    run_id: str
    record_id: str
    path: str
    metric: str
    value: float
    num_images: int | None
    key: str
    none_key: str
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

    def differences(self, base: "Value") -> list[str]:
        """What forbids to compare this value with that of a run without registers, in words."""
        return self.comparability.without_register_guidance().differences(base.comparability)


@dataclass(frozen=True)
class Run:
    """The newest record of one run."""

    run_id: str
    record_id: str
    path: str
    arm_id: str
    none_run_id: str
    seed: int
    status: str
    stored_config: str
    exact_name: str

    @cached_property
    def config(self) -> RunConfig:
        """What was run."""
        return RunConfig.model_validate_json(self.stored_config)

    @property
    def task(self) -> str:
        return self.config.task.name

    @property
    def arm(self) -> str:
        """The preset, as far as the backbone has its stages: `dsr` without an encoder stage is `denoiser`."""
        registers = self.config.registers
        return "denoiser" if registers.preset == "dsr" and "encoder" in registers.absent_stages else registers.preset

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
        denoiser = self.config.registers.denoiser
        return denoiser.count if denoiser else None

    @property
    def start_block(self) -> int | None:
        """The block of the denoiser before which its registers enter."""
        denoiser = self.config.registers.denoiser
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

    def stage(self, name: str) -> Any:
        """The registers of one stage, "encoder" or "denoiser"; None for none."""
        return getattr(self.config.registers, name)


class Measured:
    """Every run with its values."""

    def __init__(self, runs: Sequence[Run], values: Sequence[Value]) -> None:
        self._runs = runs
        self._values = values

    @classmethod
    def read(cls, database: duckdb.DuckDBPyConnection) -> "Measured":
        """All that the database has."""
        runs = database.execute(_RUNS).fetchall()
        values = database.execute(_VALUES).fetchall()
        return cls([Run(*row) for row in runs], [Value(*row) for row in values])

    def runs_of(self, families: Sequence[str], arms: Sequence[str]) -> list[Run]:
        """The runs of these families with these arms."""
        return [run for run in self._runs if run.arm in arms and run.config.backbone in families]

    def siblings(self, run: Run) -> list[Run]:
        """The runs that differ from this one in their registers alone, seed and all; this one too."""
        return self._by_none.get(run.none_run_id, [])

    def values(self, run: Run, metrics: Sequence[str]) -> list[Value]:
        """A run's values of these metrics, one for each comparability key."""
        return [value for value in self._by_run.get(run.run_id, []) if value.metric in metrics]

    def is_measured(self, task: str, metrics: Sequence[str]) -> bool:
        """Whether any run of a task has a value of these metrics."""
        return any(run.task == task and self.values(run, metrics) for run in self._runs)

    def spreads(self, key: str) -> list[tuple[float, float, int]]:
        """(mean, sample standard deviation, seeds) of every arm that has several values under a key."""
        by_arm: dict[str, list[float]] = {}
        for run in self._runs:
            by_arm.setdefault(run.arm_id, []).extend(v.value for v in self._by_run.get(run.run_id, []) if v.key == key)
        several = [values for values in by_arm.values() if len(values) > 1]
        return [(statistics.fmean(values), statistics.stdev(values), len(values)) for values in several]

    @cached_property
    def _by_none(self) -> dict[str, list[Run]]:
        found: dict[str, list[Run]] = {}
        for run in self._runs:
            found.setdefault(run.none_run_id, []).append(run)
        return found

    @cached_property
    def _by_run(self) -> dict[str, list[Value]]:
        found: dict[str, list[Value]] = {}
        for value in self._values:
            found.setdefault(value.run_id, []).append(value)
        return found
