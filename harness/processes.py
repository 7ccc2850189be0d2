"""Which process on which machine somebody is, and whether it is still there (no torch)."""

import os
import platform
from pathlib import Path

from harness.frozen import Frozen


class ProcessIdentity(Frozen):
    """A process that no other is mistaken for: numbers of processes come round again, times of their start do not.

    `boot` and `namespace` tell machines and containers apart that share a name; both are empty where there is no /proc.
    """

    host: str
    boot: str
    namespace: str
    process: int
    started: str

    def words(self) -> str:
        """For a person."""
        return f"process {self.process} on {self.host}"

    def is_here(self) -> bool:
        """Whether it is, or was, a process that can be seen from here."""
        return (self.host, self.boot, self.namespace) == _place()

    def is_gone(self) -> bool:
        """Whether it is known to have ended.  Of a process elsewhere nothing is known."""
        return self.is_here() and _started(self.process) != self.started


def this_process() -> ProcessIdentity:
    """The process that asks."""
    host, boot, namespace = _place()
    process = os.getpid()
    return ProcessIdentity(host=host, boot=boot, namespace=namespace, process=process, started=_started(process))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _place() -> tuple[str, str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot = namespace = ""
    return platform.node(), boot, namespace


def _started(process: int) -> str:
    """Clock ticks from the machine's start to the process's; empty where it is gone, or a zombie.

    Without /proc a process that exists counts as started "once".
    """
    if not Path("/proc/self/stat").exists():
        return "once" if _answers(process) else ""
    try:
        # The name in parentheses may hold spaces and parentheses itself.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, ticks = fields[0], fields[19]
    return "" if state in "ZX" else ticks


def _answers(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
