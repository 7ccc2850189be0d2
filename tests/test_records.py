"""What is committed under results/: valid, complete in provenance, and the source of the README's table."""

import hashlib
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.store import Stored, read_all
from leaderboard.table import markdown, write_between_markers

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked records alone, without what was run in this checkout since."""
    tracked = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    place = tmp_path_factory.mktemp("committed")
    for name in tracked.stdout.splitlines():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    return place / "results"


@pytest.fixture(scope="module")
def records(committed: Path) -> list[Stored]:
    stored, problems = read_all(committed)
    assert problems == []
    assert stored
    return stored


def test_every_record_says_where_it_comes_from(records: list[Stored]) -> None:
    for each in records:
        provenance = each.record.provenance
        assert provenance.commit, f"{each.path.name} was not made by a commit"
        assert provenance.dirty is False, f"{each.path.name} was made by code that is in no commit"
        assert each.record.config.execution.data is None
        assert {"torch", "numpy", "python"} <= set(provenance.versions)


def test_every_picture_is_the_one_that_its_record_names(records: list[Stored]) -> None:
    for each in records:
        samples = each.record.samples
        if samples is not None:
            picture = each.path.with_name(samples.file)
            assert hashlib.sha256(picture.read_bytes()).hexdigest() == samples.sha256


def test_the_matrix_is_complete(records: list[Stored]) -> None:
    """On digits {sit, dit} x {none, denoiser} x 3 seeds, the other backbones at least once; each arm beside its own."""
    ids = {each.record.run_id for each in records}
    for backbone, preset in itertools.product(("sit", "dit"), ("none", "denoiser")):
        assert _seeds(records, "digits", backbone, preset) >= {0, 1, 2}
    for backbone, preset in itertools.product(("jit", "pdit", "rae-dit", "rae-dit-dh"), ("none", "dsr")):
        assert _seeds(records, "digits", backbone, preset)
    for backbone, preset in itertools.product(("sit", "jit"), ("none", "dsr")):
        assert _seeds(records, "shapes-t2i", backbone, preset) >= {0, 1, 2}
    for each in records:
        assert each.record.config.without_registers().run_id in ids, f"{each.path.name} has no matched arm"


def test_the_readme_shows_the_committed_records(committed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", copy)
    for task in ("digits", "shapes-t2i"):
        write_between_markers(copy, markdown(committed, task), task)
    assert copy.read_text() == (ROOT / "README.md").read_text(), (
        "run `python -m harness table --write README.md --task ...`"
    )


def _seeds(records: list[Stored], *names: str) -> set[int]:
    """The seeds of a task's backbone under a preset."""
    configs = [each.record.config for each in records]
    return {each.seed for each in configs if (each.task.name, each.backbone, each.registers.preset) == names}
