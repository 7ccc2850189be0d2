"""Withdrawals: a record stays, and counts no longer."""

import json
from pathlib import Path

import duckdb
import pytest

from harness import database, store
from harness.errors import UserError
from harness.withdrawals import BadWithdrawal, is_withdrawn, read_withdrawals, withdraw, withdrawn_paths
from tests.builders import quick_config
from tests.test_store import make_record

REASON = "its seed was chosen by its score"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two records of one run, and one of another."""
    folder = tmp_path / "results"
    for minutes in (0, 1):
        store.append(folder, make_record(quick_config(tmp_path), 5.0 + minutes, minutes), None)
    store.append(folder, make_record(quick_config(tmp_path, "sit", "denoiser"), 7.0), None)
    return folder


def _table(results: Path, question: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(database.rebuild(results).database), read_only=True) as connection:
        return connection.execute(question).fetchall()


def test_a_withdrawn_record_is_in_a_table_of_its_own_whether_its_file_is_there_or_not(results: Path) -> None:
    newest = store.files(results)[1]
    withdraw(results, newest, REASON)
    place = str(newest.relative_to(results))
    for is_there in (True, False):
        if not is_there:
            newest.unlink()
        assert _table(results, "SELECT record_id, path, reason FROM withdrawn") == [(newest.stem, place, REASON)]
        paths = {path for (path,) in _table(results, "SELECT path FROM runs")}
        assert (len(paths), place in paths) == (2, False)
        assert newest not in [stored.path for stored in store.read_all(results)[0]]


def test_a_withdrawn_record_is_no_result_of_its_run(results: Path, tmp_path: Path) -> None:
    """The run goes back to the record before, and without one it is made anew."""
    config = quick_config(tmp_path)
    older, newer = (path for path in store.files(results) if path.stem.endswith(config.run_id))
    withdraw(results, newer, REASON)
    found = store.find(results, config)
    assert found is not None
    assert found.path == older
    withdraw(results, older, REASON)
    assert store.find(results, config) is None
    assert withdrawn_paths(results) == {older, newer}


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 64},
        {"path": "measured/digits/sit/20261121T030405678901Z-000000000000.json"},
        {"path": "../outside.json"},
        {"path": "measured/../digits/20261121T030405678901Z-000000000000.json"},
        {"reason": "." * 20},
        {"reason": " " * 20},
        {"reason": ""},
        {"created": "2026-11-21T00:00:00"},
        {"approved": True},
    ],
)
def test_a_withdrawal_that_does_not_hold_leaves_its_record_in(results: Path, change: dict[str, object]) -> None:
    record = store.files(results)[0]
    place = withdraw(results, record, REASON)
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    assert not is_withdrawn(results, record)
    (bad,) = read_withdrawals(results)[1]
    assert isinstance(bad, BadWithdrawal)
    index = database.rebuild(results)
    assert (index.records, [problem.path for problem in index.problems]) == (3, [place])


def test_what_cannot_be_withdrawn_is_a_mistake(results: Path, tmp_path: Path) -> None:
    record = store.files(results)[0]
    withdraw(results, record, REASON)
    with pytest.raises(UserError, match="withdrawn already"):
        withdraw(results, record, REASON)
    with pytest.raises(UserError, match="10 to 2000 characters"):
        withdraw(results, store.files(results)[1], "  bad  ")
    with pytest.raises(UserError, match="10 of them letters"):
        withdraw(results, store.files(results)[1], "." * 20)
    with pytest.raises(UserError, match="there is no file"):
        withdraw(results, results / "none.json", REASON)
    for place, said in ((tmp_path, "does not lie below"), (results, "called as no record")):
        (place / "note.json").write_text("{}")
        with pytest.raises(UserError, match=said):
            withdraw(results, place / "note.json", REASON)
