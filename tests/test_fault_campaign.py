"""Whatever befalls runs, writers and disks, nothing is lost; and the campaign that says so would see it if it were."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import database, store
from harness.records import RunRecord
from harness.run_state import note
from tests import fault_campaign
from tests.builders import quick_config
from tests.faults import damages, disks, kills, writers
from tests.faults.campaign import Campaign
from tests.faults.checker import COMPARED, Kind, faults_of_results, faults_of_run
from tests.faults.figures import Figures, table
from tests.test_store import make_record

RUNS = 3


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("campaign"))


@pytest.mark.parametrize(
    "play",
    [
        pytest.param(lambda campaign, rng: kills.play(campaign, rng, 2), id="kills"),
        pytest.param(lambda campaign, rng: writers.play(campaign, rng, 3, 3, 1), id="writers"),
        pytest.param(lambda campaign, rng: disks.fill(campaign, rng, 1), id="full"),
        pytest.param(lambda campaign, rng: disks.squeeze(campaign, rng, 6), id="no-room"),
        pytest.param(lambda campaign, rng: disks.forbid(campaign, rng, 1), id="read-only"),
        pytest.param(lambda campaign, rng: damages.damage(campaign, rng, 1), id="damages"),
        pytest.param(lambda campaign, rng: damages.take_over(campaign, rng, 1), id="take-overs"),
    ],
)
def test_a_small_campaign_loses_nothing(campaign: Campaign, play: Callable[[Campaign, random.Random], Figures]) -> None:
    figures = play(campaign, random.Random(1))
    if figures.skipped:
        pytest.skip(figures.skipped)
    assert figures.faults == [], table([figures])
    assert figures.found == figures.expected > 0


def _records(place: Path) -> list[RunRecord]:
    config = quick_config(place)
    return [make_record(config.model_copy(update={"seed": seed})) for seed in range(RUNS)]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three records and their database."""
    for record in _records(tmp_path):
        store.append(tmp_path / "results", record, None)
    database.rebuild(tmp_path / "results")
    return tmp_path / "results"


def _kinds(results: Path) -> set[Kind]:
    expected = [record.run_id for record in _records(results.parent)]
    return {fault.kind for fault in faults_of_results(results, expected)[1]}


def _first(results: Path) -> Path:
    return min((results / store.MEASURED).rglob("*.json"))


def test_nothing_is_found_where_nothing_is_wrong(results: Path) -> None:
    assert _kinds(results) == set()


def test_a_lost_record_is_found(results: Path) -> None:
    _first(results).unlink()
    database.rebuild(results)
    assert _kinds(results) == {"lost"}


def test_a_record_twice_is_found(results: Path) -> None:
    store.append(results, make_record(quick_config(results.parent), minutes=1), None)
    database.rebuild(results)
    assert _kinds(results) == {"twice"}


def test_a_record_of_nobody_is_found(results: Path) -> None:
    store.append(results, make_record(quick_config(results.parent, seed=RUNS)), None)
    database.rebuild(results)
    assert _kinds(results) == {"twice"}


def test_half_a_record_is_found(results: Path) -> None:
    content = _first(results).read_bytes()
    _first(results).write_bytes(content[: len(content) // 2])
    assert _kinds(results) == {"half", "lost", "twice"}, "half, not among the records, and a row without a record"


def test_an_unreadable_database_is_found(results: Path) -> None:
    (results / database.DATABASE).write_bytes(b"no database")
    assert _kinds(results) == {"unreadable"}


def test_an_absent_database_is_found(results: Path) -> None:
    (results / database.DATABASE).unlink()
    assert _kinds(results) == {"unreadable"}


def test_a_database_that_lags_behind_is_found(results: Path) -> None:
    record = make_record(quick_config(results.parent, seed=RUNS))
    store.append(results, record, None)
    assert "lost" in {fault.kind for fault in faults_of_results(results, [record.run_id])[1]}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A run's folder, and the same of one that nobody disturbed."""
    for name in ("run", "undisturbed"):
        (tmp_path / name).mkdir()
        for file in COMPARED:
            (tmp_path / name / file).write_bytes(file.encode())
    note(tmp_path / "run", "finished")
    assert faults_of_run(tmp_path / "run", tmp_path / "undisturbed") == []
    return tmp_path / "run", tmp_path / "undisturbed"


@pytest.mark.parametrize("file", COMPARED)
def test_other_bytes_are_found(folders: tuple[Path, Path], file: str) -> None:
    (folders[0] / file).write_bytes(b"other weights")
    assert [fault.kind for fault in faults_of_run(*folders)] == ["other bytes"]
    (folders[0] / file).unlink()
    assert [fault.kind for fault in faults_of_run(*folders)] == ["other bytes"]


def test_leftovers_and_a_wrong_state_are_found(folders: tuple[Path, Path]) -> None:
    (folders[0] / ".weights.safetensors.0a1b2c3d.part").touch()
    note(folders[0], "running")
    assert [fault.kind for fault in faults_of_run(*folders)] == ["leftover", "state"]


def test_a_fault_ends_the_campaign_with_1_and_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = Figures("kills", runs=1)
    monkeypatch.setattr(fault_campaign, "play", lambda *_: [figures])
    assert fault_campaign.main([]) == 0
    figures.fault("it barked")
    assert fault_campaign.main([]) == 1
    assert "FAULT in kills: behaviour: it barked" in capsys.readouterr().out
