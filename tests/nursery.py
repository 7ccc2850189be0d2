"""Processes forked from one that has imported torch already: each starts in a moment, not after many seconds."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import TimeoutExpired

STDOUT, STDERR = 1, 2

# What a run or an encoder's command imports, and what torch imports with the first optimizer and first meta tensor.
WARM = (
    ["torch._dynamo", "torch.distributed.fsdp", "torch.utils.flop_counter", "timm"]
    + ["harness.cli", "harness.perform", "harness.report", "harness.digits_judge", "harness.launch_settings"]
    + ["harness.encoder", "harness.job", "harness.sweep_launch", "harness.local_pool", "dsr", "PIL.PngImagePlugin"]
    + [f"baselines.{family}" for family in ("dit", "jit", "rae_dit", "sit")]
    + ["tests.builders", "tests.faults.writers"]
)

NURSERY = multiprocessing.get_context("forkserver")
NURSERY.set_forkserver_preload(WARM)


@dataclass(frozen=True)
class Forked:
    """A process at work, as `subprocess.Popen` would show it."""

    process: ForkServerProcess

    @property
    def pid(self) -> int:
        assert self.process.pid is not None, "a process without a number"
        return self.process.pid

    def poll(self) -> int | None:
        """Its exit code, minus the signal where one ended it; None while it is at work."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.  Raises TimeoutExpired, and leaves the process alone, where that takes longer."""
        self.process.join(timeout)
        code = self.poll()
        if code is None:
            assert timeout is not None, "a join without a limit ends with the process"
            raise TimeoutExpired(self.process.name, timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing happens where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork(work: Callable[..., None], *arguments: object) -> Forked:
    """Start `work(*arguments)` in a process of its own."""
    process = NURSERY.Process(target=work, args=arguments)
    process.start()
    return Forked(process)


def command(words: Sequence[str], cwd: Path, out: Path, err: Path) -> Forked:
    """Start `python -m harness ...` in a folder, with this process's environment, what it prints in two files."""
    for path in (out, err):
        path.touch()
    return fork(_be_command, list(words), cwd, (out, err), dict(os.environ))


def _be_command(words: Sequence[str], cwd: Path, said: tuple[Path, Path], environment: Mapping[str, str]) -> None:
    for path, number in zip(said, (STDOUT, STDERR), strict=True):
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["python -m harness", *words]
    from harness.cli import main

    sys.exit(main(words))
