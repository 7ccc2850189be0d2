"""A run's own folder: one process at a time, and everything that an interrupted run needs to go on (no torch)."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from harness.attachments import Kind
from harness.errors import UserError, disk_error
from harness.files import sweep_parts, write_new
from harness.heartbeat import Heartbeat
from harness.lease import is_lease, take
from harness.record_versions import read_record
from harness.records import RunRecord
from harness.run_state import Attempt
from harness.spec import RunConfig


@dataclass(frozen=True)
class Worker:
    """On whose behalf a run is worked on: a launcher's name for the job, and how often that was started again."""

    job: str = ""
    restart: int = 0


BY_HAND = Worker()


@dataclass(frozen=True)
class Workspace:
    """The folder `runs/<run_id>`.  A finished run leaves its record there before it is published."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def sample_parts(self) -> Path:
        return self.folder / "sample-parts"

    @property
    def samples(self) -> Path:
        """All images as ADM's .npz: arr_0 (N, H, W, C) in 0..255, and labels (N,)."""
        return self.folder / "samples.npz"

    @property
    def unguided_samples(self) -> Path:
        """The same without guidance, where the protocol has some."""
        return self.folder / "samples-unguided.npz"

    @property
    def features(self) -> Path:
        """What extractors saw in the samples, so that an interrupted judging goes on."""
        return self.folder / "features"

    @property
    def picture(self) -> Path:
        return self.folder / "samples.png"

    @property
    def norm_maps(self) -> Path:
        """Token norms of a few probe images, block by block."""
        return self.folder / "norm-maps.safetensors"

    @property
    def moments(self) -> Path:
        """The moments of the features that the samples were judged by."""
        return self.folder / "moments.safetensors"

    @property
    def images(self) -> Path:
        """The samples once more as GenEval's official tool wants them, where they are made for its prompts."""
        return self.folder / "images"

    @property
    def verdicts(self) -> Path:
        """What was decided of each sample, where samples are judged by their prompts."""
        return self.folder / "verdicts.jsonl.gz"

    @property
    def weights(self) -> Path:
        """The EMA weights, under the official names but for the registers."""
        return self.folder / "weights.safetensors"

    @property
    def second_weights(self) -> Path:
        """The other EMA's, where the recipe keeps two."""
        return self.folder / "weights-second-ema.safetensors"

    @property
    def record(self) -> Path:
        return self.folder / "record.json"

    def attachment(self, kind: Kind) -> Path:
        """Where a file lies that is published beside the record."""
        own: dict[Kind, Path] = {"moments": self.moments, "norms": self.norm_maps, "verdicts": self.verdicts}
        return own[kind]

    def kept(self) -> tuple[int, int]:
        """How far the run is on disk: the step of its newest checkpoint, and the number of files of other phases.

        The latents that it shares with others count too.
        """
        steps = [int(path.name.split("-")[1]) for path in self.checkpoints.glob("step-*-*.pt")]
        others = (self.sample_parts, self.features, self.folder.parent / "latents")
        made = sum(1 for folder in others for file in folder.rglob("*.np[yz]") if not file.name.startswith("."))
        return max(steps, default=0), made + self.weights.exists() + self.record.exists()

    def finished(self) -> RunRecord | None:
        """The record that a finished run left; raises UserError where it is damaged."""
        if not self.record.exists():
            return None
        try:
            return read_record(self.record.read_bytes())
        except ValidationError as error:
            raise UserError(
                f"{self.record} is damaged: {error.errors()[0]['msg']}",
                "delete it: the run then goes on from its last checkpoint",
            ) from error

    def keep(self, record: RunRecord) -> None:
        """Leave the record of a finished run.  Raises UserError where there is one."""
        write_new(self.record, (record.model_dump_json(indent=1) + "\n").encode())

    def clear(self) -> None:
        """Forget everything, so that the run starts anew.

        The record goes last: a clearing that is cut short is then known, and done again.
        """
        try:
            for entry in self.folder.iterdir():
                if entry != self.record and not is_lease(entry):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            self.record.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(self.folder, error) from error


def of(config: RunConfig) -> Workspace:
    """The workspace of a run, wherever it is looked at from."""
    return Workspace(Path(config.execution.runs) / config.run_id)


@contextmanager
def enter(config: RunConfig, worker: Worker = BY_HAND) -> Iterator[tuple[Workspace, Heartbeat]]:
    """The workspace of a run, for this process alone, and the heart that beats while it is; the lease ends with it.

    Raises Taken where another process is at work on the same run, UserError where the folder cannot be written.
    """
    space = of(config)
    lease = take(space.folder, worker.job, worker.restart)
    try:
        sweep_parts(space.folder)
        attempt = Attempt(job=worker.job, restart=worker.restart, kept=space.kept(), started=datetime.now(UTC))
        with Heartbeat(lease, attempt) as heart:
            yield space, heart
    finally:
        lease.give_back()
