"""A run's own folder: one process at a time, and everything that an interrupted run needs to go on (no torch)."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from harness.errors import UserError, disk_error
from harness.files import write_text
from harness.record_versions import read_record
from harness.records import RunRecord
from harness.spec import RunConfig


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
        """Leave the record of a finished run."""
        write_text(self.record, record.model_dump_json(indent=1) + "\n")

    def clear(self) -> None:
        """Forget everything, so that the run starts anew.

        The record goes last: a clearing that is cut short is then known, and done again.
        """
        try:
            for entry in self.folder.iterdir():
                if entry not in (self.folder / LOCK, self.record):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            self.record.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(self.folder, error) from error


LOCK = "lock"


@contextmanager
def enter(config: RunConfig) -> Iterator[Workspace]:
    """The workspace of a run, for this process alone; the lock ends with the process, however it ends.

    Raises UserError where another process is at work on the same run, or the folder cannot be written.
    """
    folder = Path(config.execution.runs) / config.run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise disk_error(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read() or "another process"
            raise UserError(
                f"run {config.run_id} is being worked on by {owner}",
                "wait for it: the same command then prints its result",
            ) from None
        _sign(lock)
        yield Workspace(folder)


def _sign(lock: TextIO) -> None:
    """Say who holds the lock; on a full disk it holds without a name."""
    lock.truncate(0)
    with contextlib.suppress(OSError):
        lock.write(json.dumps({"process": os.getpid(), "host": platform.node()}))
        lock.flush()
