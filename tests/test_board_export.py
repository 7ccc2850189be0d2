"""The exported board: the same bytes for the same records, whole or as it was, and nothing in it but what it shows."""

import html.parser
import re
import shutil
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from harness import store
from harness.cli import main
from harness.errors import UserError
from leaderboard import export_runs
from leaderboard.export import MARKER, export
from tests.builders import quick_config
from tests.test_store import make_record

PROJECT = Path(__file__).parent.parent / "results"
UGLY = '<script>alert("x")</script> **bold** :rocket: \u202e' + "x" * 10_000


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds with and without registers, one run that diverged, and what others published."""
    place = tmp_path_factory.mktemp("exported")
    results = place / "results"
    shutil.copytree(PROJECT / "published", results / "published")
    for seed, value in ((0, 12.0), (1, 13.0)):
        store.append(results, make_record(quick_config(place, "sit", "none", seed=seed), value + 3), None)
        store.append(results, make_record(quick_config(place, "sit", "denoiser", seed=seed), value), None)
    lost = make_record(quick_config(place, "sit", "denoiser", seed=2))
    notes = {"status": "diverged", "measurements": (), "notes": (UGLY,)}
    store.append(results, lost.model_copy(update=notes), None)
    return results


@pytest.fixture(scope="module")
def exported(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(results, tmp_path_factory.mktemp("out") / "board")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Page(html.parser.HTMLParser):
    """Where a page leads, what it loads, and whether what it opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("href", "src") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_equal_records_give_equal_bytes(results: Path, exported: Path, tmp_path: Path) -> None:
    assert _bytes(export(results, tmp_path / "again")) == _bytes(exported)


def test_every_link_leads_to_a_file_and_none_to_another_server(exported: Path) -> None:
    pages = list(exported.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        for target in _Page(page.read_text()).links:
            assert target.startswith("#") or (page.parent / target).is_file(), (page, target)


def test_every_page_is_well_formed(exported: Path) -> None:
    assert {name: page.open for name, page in _pages(exported).items() if page.open} == {}


def _pages(exported: Path) -> dict[str, _Page]:
    return {str(path): _Page(path.read_text()) for path in exported.rglob("*.html")}


def test_the_first_page_says_what_registers_changed(exported: Path) -> None:
    text = (exported / "index.html").read_text()
    assert re.search(r'<td>denoiser</td><td class="number" data-value="12.5">12.5</td>', text)
    assert re.search(r'<td class="number" data-value="-3.0">-3</td>', text)


def test_what_was_not_measured_is_a_dash_and_no_zero(exported: Path) -> None:
    arms = (exported / "index.html").read_text().partition("<tbody>")[2]
    (none,) = [row for row in arms.split("<tr>") if "<td>none</td>" in row and "</table>" not in row]
    assert '<td class="number">–</td>' in none


def test_what_strangers_wrote_is_text(exported: Path) -> None:
    texts = [page.read_text() for page in exported.rglob("*.html")]
    assert any("&lt;script&gt;alert" in text for text in texts)
    assert not any("<script>alert" in text or "\u202e" in text for text in texts)


def test_every_table_is_there_as_parquet(results: Path, exported: Path) -> None:
    with duckdb.connect(str(results / "leaderboard.duckdb"), read_only=True) as database:
        names = {name for (name,) in database.execute("SELECT table_name FROM information_schema.tables").fetchall()}
    assert {path.stem for path in (exported / "data").iterdir()} == names
    runs = pd.read_parquet(exported / "data" / "runs.parquet")
    assert set(runs["status"]) == {"finished", "diverged"}
    assert len(runs) == 5


def test_an_export_takes_the_place_of_an_earlier_one_alone(results: Path, exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "board"
    shutil.copytree(exported, copy)
    (copy / "runs" / "gone.html").write_text("a run that was withdrawn since")
    export(results, copy)
    assert _bytes(copy) == _bytes(exported)
    assert list(tmp_path.iterdir()) == [copy]


@pytest.mark.parametrize("mark", [None, "{}", "[]", "no json"])
def test_a_folder_of_somebody_elses_is_left_alone(results: Path, tmp_path: Path, mark: str | None) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    if mark is not None:
        (tmp_path / MARKER).write_text(mark)
    with pytest.raises(UserError, match="no board that was exported here"):
        export(results, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_file_is_left_alone(results: Path, tmp_path: Path) -> None:
    (tmp_path / "board").write_text("years of work")
    with pytest.raises(UserError, match="no board that was exported here"):
        export(results, tmp_path / "board")


def test_a_failed_export_leaves_what_was_there(
    results: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "board"
    shutil.copytree(exported, copy)

    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_runs, "_measurements", fail)
    with pytest.raises(UserError, match="No space left"):
        export(results, copy)
    assert _bytes(copy) == _bytes(exported)
    assert list(tmp_path.iterdir()) == [copy]


def test_of_many_runs_some_of_every_arm_have_a_page(results: Path, exported: Path) -> None:
    with duckdb.connect(str(results / "leaderboard.duckdb"), read_only=True) as database:
        shown = export_runs.shown_runs(database, most=2)
        found = database.execute("SELECT registers, seed FROM runs WHERE run_id IN $ids", {"ids": list(shown.ids)})
        assert sorted(found.fetchall()) == [("denoiser", 0), ("none", 0)]
        assert "Of 5 runs 2 have a page" in shown.told
        assert export_runs.shown_runs(database).told == "All 5 runs have a page of their own."


def test_the_verb_says_where_the_board_is(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "--export", str(tmp_path / "board"), "--results", str(results)]) == 0
    assert (tmp_path / "board" / "index.html").is_file()
    assert main(["board", "--export", str(tmp_path / "other"), "--results", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_nothing_measured_is_a_board_too(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    board = export(tmp_path / "results", tmp_path / "board")
    assert "No results yet" in (board / "index.html").read_text()
    assert "no claims" in (board / "claims.html").read_text()
