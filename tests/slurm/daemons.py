"""Processes in the background that are known again by number and time of start, and no other is ever signalled."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS_TO_START, SECONDS_TO_STOP = 90, 15


class StartError(Exception):
    """A daemon did not come up."""


@dataclass(frozen=True)
class Daemon:
    """One of a cluster's daemons: `folder/run/NAME.own` says which process it is, `folder/log` what it said."""

    name: str
    folder: Path

    @property
    def note(self) -> Path:
        return self.folder / "run" / f"{self.name}.own"

    def process(self) -> int | None:
        """Its number, if the process that was started is still that same process."""
        try:
            number, started, boot = json.loads(self.note.read_text())
        except (OSError, ValueError):
            return None
        return number if boot == _boot() and started == started_at(number) != "" else None

    def start(self, command: Sequence[str | Path], environment: Mapping[str, str], ready: Callable[[], bool]) -> None:
        """Start it unless it runs, in a session of its own, and return when it is ready."""
        if self.process() is None:
            with (self.folder / "log" / f"{self.name}.out").open("ab") as log:
                daemon = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=environment,
                    start_new_session=True,
                )  # fmt: skip
            self.note.write_text(json.dumps([daemon.pid, started_at(daemon.pid), _boot()]))
        self.wait_until(ready)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return when it is ready; raises StartError with the end of its log where it does not get so."""
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline and self.process() is not None:
            if ready():
                return
            time.sleep(0.05)
        logs = sorted((self.folder / "log").glob(f"{self.name}.*"))
        last_lines = "\n".join(line for log in logs for line in log.read_text(errors="replace").splitlines()[-8:])
        state = "does not answer" if self.process() else "has ended"
        raise StartError(f"{self.name} {state}:\n{last_lines}")

    def stop(self) -> None:
        """End it, gently if it listens."""
        for request in (signal.SIGTERM, signal.SIGKILL):
            number = self.process()
            if number is None:
                break
            os.kill(number, request)
            deadline = time.monotonic() + SECONDS_TO_STOP
            while self.process() is not None and time.monotonic() < deadline:
                time.sleep(0.05)
        self.note.unlink(missing_ok=True)


def started_at(number: int) -> str:
    """Clock ticks from the machine's start to the process's; empty where it is gone, or a zombie."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
