"""Options, and threads that two cores can bear."""

import os
import signal
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest

import baselines

LONGEST = {
    "test_sweep_local",
    "test_resume",
    "test_distributed",
    "test_docs",
    "test_cli",
    "test_fault_campaign",
}
GOLDENS = [Path(__file__).parent / "goldens" / name for name in ("backbones", "encoder")]


@pytest.fixture(autouse=True)
def _main_stays_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit leaves a page's script as `__main__`, and each process that a later test forks would run it."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--goldens", type=Path, help="a golden directory (default: the two in tests/)")
    parser.addoption("--board-pictures", type=Path, help="a folder for screenshots of all its pages on those results")
    parser.addoption("--backbones", type=Path, help="a folder of further backbone files to review")
    parser.addoption("--goldens-strict", action="store_true", help="fail on families that are not implemented yet")


def pytest_configure(config: pytest.Config) -> None:
    # What a script starts in the background ignores Ctrl-C, and so would every command of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    further = config.getoption("--backbones")
    if further is not None:
        baselines.__path__.append(str(further))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Whoever asks for the cluster does not wait until all other files are imported."""
    if config.option.markexpr != "slurm" or collection_path.suffix != ".py":
        return None
    return "pytest.mark.slurm" not in collection_path.read_text() or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A cluster is started for those who ask for it, and for them it is no option.

    What takes longest is begun first, or one worker would be at it while the other has nothing left to do.
    """
    if "slurm" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("slurm")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("slurm")]
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden" in metafunc.fixturenames:
        from tests.goldens import read_cases

        given = metafunc.config.getoption("--goldens")
        folders = GOLDENS if given is None else [given]
        for folder in folders:
            if not (folder / "index.json").is_file():
                raise pytest.UsageError(f"{folder} is no golden directory: it has no index.json")
        cases = [case for folder in folders for case in read_cases(folder)]
        metafunc.parametrize("golden", cases, ids=[case.id for case in cases])
