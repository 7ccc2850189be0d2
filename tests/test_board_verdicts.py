"""What the board says of a difference: no more than its interval, and the same of what is the same."""

import re
from pathlib import Path

import duckdb
import pytest

from harness import database, store
from harness.intervals import Interval
from leaderboard import links, queries
from leaderboard.differences import judged_arms, treatments, verdict
from leaderboard.findings import findings, rounded, signed, summary
from leaderboard.screens.ranking import LINKED, OF_RUNS
from tests.builders import quick_config
from tests.test_store import make_record


def test_presets_that_are_the_same_here_count_once(tmp_path: Path) -> None:
    """`dsr` where no encoder makes the latents is `denoiser`; with another count it is not."""
    results = tmp_path / "results"
    for seed, value in ((0, 9.0), (1, 12.0)):
        store.append(results, make_record(quick_config(tmp_path, seed=seed)), None)
        for registers, changes in (("denoiser", ()), ("dsr", ()), ("denoiser", ("registers.denoiser.count=2",))):
            config = quick_config(tmp_path, "sit", registers, *changes, seed=seed)
            store.append(results, make_record(config, value), None)
    database.rebuild(results)
    with duckdb.connect(str(results / database.DATABASE), read_only=True) as connection:
        first = queries.boards(connection).iloc[0]
        metrics = queries.metrics(connection, first["task"], first["protocol"]).set_index("name")
        board = queries.Board(first["task"], first["protocol"], metrics["key"]["fd_digits"])
        arms = judged_arms(connection, board, "fd_digits", "lower")
    assert len(arms) == 4
    distinct = treatments(arms)
    assert len(distinct) == 3
    assert sum(label.endswith(" = dsr here") for label in distinct["label"]) == 1
    assert "Both kinds of tokens show nothing" in findings(distinct)[0].sentence
    said = "0 of 2 with two or more seeds show a difference; effects up to 200\u00a0% of none cannot be excluded"
    assert summary(distinct) == f"**Tokens**: {said}."


@pytest.mark.parametrize(
    ("interval", "better", "said"),
    [
        (None, "lower", "not known"),
        (Interval(-4.2, 4.1, 1, "prior"), "lower", "one seed: a hint"),
        (Interval(-4.2, 4.3, 1, "prior"), "lower", "shows nothing"),
        (Interval(-4.2, 4.1, 3, "seeds"), "lower", "helps"),
        (Interval(-4.2, 4.1, 3, "seeds"), "higher", "harms"),
        (Interval(-4.2, 4.1, 3, "seeds"), "neither", "smaller"),
        (Interval(0.0, 0.0, 3, "seeds"), "lower", "changed nothing"),
        (Interval(0.0, 4.1, 1, "prior"), "lower", "changed nothing"),
        (Interval(0.0, 4.1, 3, "seeds"), "lower", "shows nothing"),
        (Interval(0.2, 0.0, 3, "counted"), "lower", "larger"),
    ],
)
def test_a_verdict_says_no_more_than_its_interval(interval: Interval | None, better: str, said: str) -> None:
    assert verdict(interval, better) == said


@pytest.mark.parametrize(("value", "said"), [(483.2, "480"), (0.0129, "0.013"), (1234567, "1200000"), (0.0, "0")])
def test_a_number_in_a_sentence_has_no_exponent(value: float, said: str) -> None:
    assert rounded(value) == said
    assert signed(-value)[0] == ("−" if value else "+")


def test_records_and_commits_are_links_once_the_repository_has_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {column.name for column in OF_RUNS} >= set(LINKED)
    monkeypatch.setattr(links, "REPOSITORY", "https://example.org/bench")
    assert re.findall(LINKED["commit"].shown, links.commit("0123456789ab")) == ["0123456"]
    assert re.findall(LINKED["path"].shown, links.record("measured/a.json")) == ["measured/a.json"]
