"""What many records cost: appending one, finding one, and rebuilding the database, in time and memory (no torch)."""

import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import database, store
from harness.bench_records import BenchCase
from harness.records import Measurement
from harness.stopwatch import seconds_of
from harness.synthetic_records import synthetic, write_synthetic
from harness.text_table import columns

# How many records are appended and found, each for itself.
ALONE = 20


@dataclass(frozen=True)
class StoreSpeed:
    """Seconds of one append, of one find, and of a rebuild of so many records; the rebuild's memory is in MiB.

    That memory is all that a process held at most which did nothing else: interpreter and libraries, `idle_memory`,
    included.
    """

    records: int
    mebibytes_of_json: float
    append: float
    find: float
    rebuild: float
    memory: float
    idle_memory: float

    def shown(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)

    def report(self) -> str:
        """For a person."""
        rows = [
            [f"rebuild of {self.records} records, {self.mebibytes_of_json:.4g} MiB", f"{self.rebuild:.4g} s"],
            ["most memory of a process that rebuilds", f"{self.memory:.4g} MiB"],
            ["the same before it begins", f"{self.idle_memory:.4g} MiB"],
            [f"append, mean of {ALONE}", f"{self.append * 1000:.4g} ms"],
            [f"find, mean of {ALONE}", f"{self.find * 1000:.4g} ms"],
        ]
        return columns(rows)

    def case(self) -> BenchCase:
        """For a record."""
        seconds = {"rebuild": self.rebuild, "append": self.append, "find": self.find}
        memory = {"rebuild_memory": self.memory, "idle_memory": self.idle_memory}
        return BenchCase(
            title=f"{self.records} synthetic records",
            measurements=(
                Measurement(name="records", value=self.records, unit="records", better="neither"),
                *(Measurement(name=name, value=value, unit="s", better="lower") for name, value in seconds.items()),
                *(Measurement(name=name, value=value, unit="MiB", better="lower") for name, value in memory.items()),
            ),
        )


def store_speed(results: Path, count: int) -> StoreSpeed:
    """Time a store of `count` synthetic records, made from those of `results`, in a temporary folder.

    Raises UserError where `results` has no record.
    """
    with filled(results, count) as folder:
        size = sum(path.stat().st_size for path in (folder / store.MEASURED).rglob("*.json"))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
            idle_memory = alone.submit(_most_memory).result()
            rebuild, memory = alone.submit(_rebuild, folder).result()
        further = list(synthetic(folder, count + ALONE))[count:]
        append = seconds_of(lambda: [store.append(folder, record, None) for record in further])
        find = seconds_of(lambda: [store.find(folder, record.config) for record in further])
    return StoreSpeed(count, size / 2**20, append / ALONE, find / ALONE, rebuild, memory, idle_memory)


@contextmanager
def filled(results: Path, count: int) -> Iterator[Path]:
    """A temporary results folder with so many synthetic records."""
    with tempfile.TemporaryDirectory(prefix="dsr-bench-") as place:
        folder = Path(place) / "results"
        write_synthetic(results, folder, count)
        yield folder


def _rebuild(folder: Path) -> tuple[float, float]:
    """Seconds, and the most memory of this process."""
    seconds = seconds_of(lambda: database.rebuild(folder))
    return seconds, _most_memory()


def _most_memory() -> float:
    """MiB that this process held at most.

    On Linux not by getrusage, which counts what the parent held when this process was started.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20
