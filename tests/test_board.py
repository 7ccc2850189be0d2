"""The leaderboard: the page on real records, in a real browser, in states that nobody wishes for."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import leaderboard
from harness import database, store
from harness.comparability import Basis
from harness.digits_judge import EXTRACTOR, REFERENCE
from harness.evaluation_store import append_evaluation
from harness.run import run
from tests.builders import harness, quick_config
from tests.test_store import make_evaluation, make_record

ROOT = Path(__file__).parent.parent
APP = Path(leaderboard.__file__).with_name("app.py")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
UGLY = "<script>alert(1)</script> **bold** 🔥 " + "x" * 10_000


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four real runs: sit and dit, with and without registers."""
    place = tmp_path_factory.mktemp("board")
    for backbone in ("sit", "dit"):
        for registers in ("none", "dsr"):
            run(quick_config(place, backbone, registers))
    return place / "results"


def _page(results: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setattr(sys, "argv", ["app.py", str(results)])
    page = AppTest.from_file(str(APP), default_timeout=60).run()
    assert not page.exception
    return page


def test_the_page_shows_every_run_with_its_difference(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(results, monkeypatch)
    arms, runs = page.dataframe[0].value, page.dataframe[1].value
    assert len(runs) == 4
    assert runs.set_index(["backbone", "registers"])["difference"].isna().to_dict() == {
        ("sit-tiny", "none"): True,
        ("dit-tiny", "none"): True,
        ("sit-tiny", "dsr"): False,
        ("dit-tiny", "dsr"): False,
    }
    assert (arms["runs"] == 1).all()
    assert "denoiser (no encoder stage here)" in set(runs["stages"])


def test_filters_and_metrics_narrow_the_page(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(results, monkeypatch)
    (backbones,) = [box for box in page.sidebar.multiselect if box.label == "Backbone"]
    page = backbones.select("sit-tiny").run()
    assert set(page.dataframe[1].value["backbone"]) == {"sit-tiny"}
    (metric,) = [box for box in page.sidebar.selectbox if box.label == "Metric"]
    for name in metric.options:
        (box,) = [box for box in page.sidebar.selectbox if box.label == "Metric"]
        page = box.select(name).run()
        assert not page.exception


def test_a_database_rebuilt_under_the_page_is_read_anew(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    page = _page(copy, monkeypatch)
    assert len(page.dataframe[1].value) == 4
    store.append(copy, make_record(quick_config(tmp_path, seed=9)), None)
    database.rebuild(copy)
    assert len(page.run().dataframe[1].value) == 5


def test_states_that_nobody_wishes_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    assert "no database" in _page(results, monkeypatch).info[0].value
    database.rebuild(results)
    assert "No results yet" in _page(results, monkeypatch).info[0].value
    config = quick_config(tmp_path)
    diverged = make_record(config).model_copy(update={"status": "diverged", "measurements": (), "notes": (UGLY,)})
    store.append(results, diverged, None)
    (results / "measured" / "broken.json").write_text(UGLY)
    database.rebuild(results)
    page = _page(results, monkeypatch)
    assert not page.error


OTHER_REFERENCE = REFERENCE.model_copy(update={"sha256": "0" * 64})
OTHER_EXTRACTOR = EXTRACTOR.model_copy(update={"weights_sha256": "0" * 64})


@pytest.mark.parametrize(
    ("basis", "reason"),
    [
        (Basis(extractor=EXTRACTOR, reference=OTHER_REFERENCE), "reference sha256"),
        (Basis(extractor=OTHER_EXTRACTOR, reference=REFERENCE), "extractor weights_sha256"),
    ],
)
def test_what_is_not_comparable_has_no_difference_and_the_page_says_why(
    basis: Basis, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    none, other = (make_record(quick_config(tmp_path, "sit", registers)) for registers in ("none", "denoiser"))
    judged = tuple(m.model_copy(update={"basis": basis}) if m.name == "fd_digits" else m for m in other.measurements)
    for record in (none, other.model_copy(update={"measurements": judged})):
        store.append(results, record, None)
    assert reason in _why_not_compared(results, monkeypatch)


def test_other_labels_are_another_board_and_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation of a run's samples under other conditions never becomes the run's value."""
    results = tmp_path / "results"
    none, other = (make_record(quick_config(tmp_path, "sit", registers)) for registers in ("none", "denoiser"))
    store.append(results, none, None)
    store.append(results, other.model_copy(update={"measurements": other.measurements[1:]}), None)
    at_random = other.conditions.model_copy(update={"labels": "random"})
    append_evaluation(results, make_evaluation(other.config, at_random))
    assert "labels: balanced here, random there" in _why_not_compared(results, monkeypatch)


def _why_not_compared(results: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the page says of values on other boards, once no arm has a difference."""
    database.rebuild(results)
    page = _page(results, monkeypatch)
    assert page.dataframe[0].value["difference"].isna().all()
    (panel,) = [each for each in page.expander if "Not compared" in each.label]
    return "\n".join(panel.dataframe[0].value["not comparable, because"])


def test_a_missing_picture_is_said(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    for picture in copy.rglob("*.png"):
        picture.unlink()
    assert "missing" in _page(copy, monkeypatch).warning[0].value


@contextmanager
def _server(results: Path, log: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "harness", "board", "--headless", "--port", str(port), "--results", str(results)]
    with log.open("w") as out:
        server = subprocess.Popen(words, stdout=out, stderr=out, start_new_session=True)
        try:
            _wait(f"http://localhost:{port}/_stcore/health", server)
            yield f"http://localhost:{port}"
        finally:
            os.killpg(server.pid, 15)
            server.wait()


def _wait(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None, "the server stopped"
        try:
            urllib.request.urlopen(address, timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the server did not start in 30 s")


@pytest.mark.browser
def test_the_board_in_a_real_browser(results: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Without an exception in the page, an error in the console, or torch in the server."""
    if CHROMIUM is None:
        assert not os.environ.get("CI"), "CI must have chromium"
        pytest.skip("no chromium: `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    picture = request.config.getoption("--board-picture")
    shown = ROOT / "results" if picture else results
    log = tmp_path / "server.log"
    with _server(shown, log) as address, sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1500, "height": 1800})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.get_by_text("Quality against cost").wait_for(timeout=60_000)
        page.get_by_text("One run").wait_for(timeout=60_000)
        page.locator('[data-testid="stImage"] img').first.wait_for(timeout=60_000)
        page.locator('[data-testid="stVegaLiteChart"] canvas, [data-testid="stVegaLiteChart"] svg').first.wait_for()
        page.locator('[data-testid="stDataFrame"]:visible').nth(2).wait_for(timeout=60_000)
        assert page.locator('[data-testid="stException"]').count() == 0
        width, height = page.locator('[data-testid="stImage"] img').first.evaluate(
            "e => [e.naturalWidth, e.naturalHeight]"
        )
        assert width > 0
        assert height > 0
        if picture:
            page.wait_for_timeout(2000)
            page.screenshot(path=picture)
        browser.close()
    assert errors == []
    said = log.read_text()
    assert not re.search(r"Traceback|Exception|Error", said), said


def test_a_taken_port_is_said(results: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        said = harness("board", "--port", str(taken.getsockname()[1]), "--results", str(results), cwd=tmp_path)
    assert said.code == 2
    assert "choose another --port" in said.err


def test_a_port_that_is_none_is_said(results: Path, tmp_path: Path) -> None:
    said = harness("board", "--port", "99999", "--results", str(results), cwd=tmp_path)
    assert said.code == 2
    assert "choose another --port" in said.err
