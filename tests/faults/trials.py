"""The tiny runs that things happen to."""

from dataclasses import dataclass
from pathlib import Path

from harness.spec import RunConfig
from tests.builders import quick_changes, quick_config


@dataclass(frozen=True)
class Trial:
    """A run on the digits that takes a second or two."""

    backbone: str
    registers: str
    seed: int
    steps: int = 24

    def config(self, place: Path) -> RunConfig:
        """The run, with all its folders below `place`."""
        return quick_config(place, self.backbone, self.registers, *self._changes(), seed=self.seed)

    def words(self, place: Path) -> list[str]:
        """What a person types for it."""
        words = ["run", "--backbone", self.backbone, "--registers", self.registers, "--seed", str(self.seed)]
        words += ["--threads", "1", "--device", "cpu", "--runs", str(place / "runs")]
        words += ["--results", str(place / "results")]
        return words + [w for change in (*quick_changes(self.backbone), *self._changes()) for w in ("--set", change)]

    def _changes(self) -> tuple[str, ...]:
        sampling = () if self.backbone == "dit" else ("sampler.points=9",)
        return (f"recipe.steps={self.steps}", *sampling)
