"""The board and its export in a real browser: every page, every filter, shared addresses, downloads, and no error."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from harness import store
from harness.spec import ThirdParty
from harness.synthetic_records import write_synthetic
from leaderboard.export import export
from tests.browser import DESKTOP, PHONE, Reader, chromium, complaints, served
from tests.builders import quick_config
from tests.test_store import make_record

pytestmark = pytest.mark.browser

PROJECT = Path(__file__).parent.parent / "results"
PAGES = {
    "": "DSR-Bench",
    **{name: name.capitalize() for name in ("compare", "outliers", "claims", "run", "submit")},
    "geneval": "Text to image",
}
MANY = 10_000
UGLY = "<script>document.title = 'mine'</script><img src=x onerror=\"document.title='mine'\"> **bold** :rocket: $x^2$ "

FILTERS = ", ".join(f'[data-testid="{kind}"]' for kind in ("stSelectbox", "stMultiSelect", "stTextInput", "stCheckbox"))
OPTIONS = '[role="option"]'

# A click is lost where a busy server redraws the page under it: a reader clicks again.
ATTEMPTS = 3
# Milliseconds until a list has drawn its options: one without any never does.
UNTIL_DRAWN = 3000
LARGEST_PICTURE = 300_000


@dataclass(frozen=True)
class Board:
    """A running board: its address, its server's log, and the results that it shows."""

    address: str
    log: Path
    results: Path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def committed(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """The project's own results."""
    results = tmp_path_factory.mktemp("committed") / "results"
    shutil.copytree(PROJECT, results, ignore=shutil.ignore_patterns("*.duckdb"))
    yield from _board(results)


@pytest.fixture(scope="module")
def many(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    results = tmp_path_factory.mktemp("many") / "results"
    write_synthetic(PROJECT, results, MANY)
    shutil.copytree(PROJECT / "published", results / "published")
    yield from _board(results)


@pytest.fixture(scope="module")
def ugly(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """One run whose author wrote what no reader wants to see, and a file that is no record."""
    place = tmp_path_factory.mktemp("ugly")
    record = make_record(quick_config(place, "sit", "denoiser"))
    config = record.config.model_copy(update={"third_party": ThirdParty(file="a b&c.py", sha256="0" * 64)})
    named = {"run_id": config.run_id, "config": config, "notes": (UGLY + "x" * 10_000,)}
    store.append(place / "results", record.model_copy(update=named), None)
    (place / "results" / "measured" / "<b>broken<b>.json").write_text(UGLY)
    yield from _board(place / "results")


def _board(results: Path) -> Iterator[Board]:
    log = results.parent / "server.log"
    with served(results, log) as address:
        yield Board(address, log, results)
    assert complaints(log) == []


@pytest.mark.parametrize("page", PAGES)
def test_each_page_opens_on_the_committed_results(
    browser: Any, committed: Board, page: str, request: pytest.FixtureRequest
) -> None:
    pictures = request.config.getoption("--board-pictures")
    for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
        reader = _opened(browser, committed, page, size)
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        if pictures:
            _keep(reader, pictures / f"{page or 'leaderboard'}-{name}.png")
        _leave(reader)


@pytest.mark.parametrize("page", PAGES)
def test_each_page_opens_on_many_records(browser: Any, many: Board, page: str) -> None:
    _leave(_opened(browser, many, page))


@pytest.mark.parametrize("page", PAGES)
def test_each_page_opens_with_ugly_names(browser: Any, ugly: Board, page: str) -> None:
    reader = _opened(browser, ugly, page)
    assert reader.page.title() != "mine"
    assert reader.page.locator("main script, main img[src=x]").count() == 0
    _leave(reader)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "submit"])
def test_each_filter_is_used(browser: Any, committed: Board, page: str) -> None:
    """And what was chosen stands in the address, which shows another reader the same."""
    reader = _opened(browser, committed, page)
    reader.page.locator(FILTERS).last.wait_for()
    labels = [_label(each) for each in reader.page.locator(FILTERS).all()]
    assert labels
    used = {label for label in reversed(labels) if _used(reader, label)}
    assert used, "no filter has a second value"
    other = Reader(browser)
    other.open(reader.page.url)
    assert other.page.url == reader.page.url
    for _ in range(50):  # parts of a page are drawn when all they need has come
        if other.said() == reader.said():
            break
        other.page.wait_for_timeout(200)
    assert other.said() == reader.said()
    _leave(other)
    _leave(reader, but="/media/")  # a picture of a state that was left before it came


def test_the_settings_of_a_table_stand_in_the_address(browser: Any, committed: Board) -> None:
    reader = _opened(browser, committed, "")
    reader.page.locator('[data-testid="stPopover"] button').first.click()
    reader.page.get_by_text("Largest first").wait_for()
    for label in ("Largest first", "Order by"):
        assert _used(reader, label)
    assert "arms_order=" in reader.page.url
    assert "arms_descending=" in reader.page.url
    other = Reader(browser)
    other.open(reader.page.url)
    assert other.page.url == reader.page.url
    _leave(other)
    _leave(reader)


@pytest.mark.parametrize("kind", ["CSV", "JSON", "Parquet"])
def test_a_download_holds_what_the_table_shows(browser: Any, committed: Board, kind: str) -> None:
    reader = _opened(browser, committed, "?backbone=sit-tiny")
    with reader.page.expect_download() as waiting:
        reader.page.get_by_text(f"Download {kind}").last.scroll_into_view_if_needed()
        reader.page.locator('[data-testid="stDownloadButton"]').filter(has_text=kind).nth(1).click()
    content = Path(waiting.value.path()).read_bytes()
    if kind == "JSON":
        found = pd.DataFrame(json.loads(content))
    else:
        found = (pd.read_csv if kind == "CSV" else pd.read_parquet)(io.BytesIO(content))
    assert set(found["backbone"]) == {"sit-tiny"}
    assert found["value"].notna().any()
    _leave(reader)


def test_the_way_from_page_to_page(browser: Any, committed: Board) -> None:
    reader = _opened(browser, committed, "")
    for name, title in list(PAGES.items())[1:]:
        reader.page.get_by_role("link", name=title, exact=True).first.click()
        reader.page.wait_for_url(re.compile(f"/{name}"))
        reader.rest()
    _leave(reader)


@pytest.fixture(scope="module")
def exported(committed: Board) -> Path:
    return export(committed.results, committed.results.parent / "board")


def test_the_export_opens_from_a_file(browser: Any, exported: Path) -> None:
    for scheme in ("light", "dark"):
        reader = Reader(browser, PHONE, color_scheme=scheme)
        asked = _asked(reader)
        reader.page.goto((exported / "index.html").as_uri())
        table = reader.page.locator("table").first
        table.get_by_role("button", name="mean").click()
        means = [float(cell) for cell in table.locator("tbody td:nth-child(3)").all_inner_texts() if cell != "–"]
        assert means == sorted(means)
        reader.page.locator("main a").first.click()
        reader.page.locator("figure svg").first.wait_for()
        reader.page.locator('a[href^="../runs/"]').first.click()
        picture = reader.page.locator("figure img").first
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        reader.page.get_by_role("link", name="Claims").click()
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert [address for address in asked if not address.startswith("file://")] == []
        _leave(reader)


def test_the_export_is_read_without_scripts(browser: Any, exported: Path) -> None:
    reader = Reader(browser, java_script_enabled=False)
    reader.page.goto((exported / "index.html").as_uri())
    assert reader.page.locator("tbody tr").count() > 10
    _leave(reader)


def _opened(browser: Any, board: Board, page: str, size: dict[str, int] = DESKTOP) -> Reader:
    reader = Reader(browser, size)
    reader.open(f"{board.address}/{page}")
    name = page.partition("?")[0]
    assert reader.page.locator("h1").first.inner_text() == PAGES[name]
    return reader


def _leave(reader: Reader, but: str = "file:///nowhere") -> None:
    """Go, having met no error but those of some addresses."""
    errors = [error for error in reader.errors if but not in error]
    reader.close()
    assert errors == []


def _asked(reader: Reader) -> list[str]:
    """Where a page gets what it loads from now on."""
    addresses: list[str] = []
    reader.page.on("request", lambda request: addresses.append(request.url))
    return addresses


def _label(widget: Any) -> str:
    return str(widget.locator("label, [data-testid=stWidgetLabel]").first.inner_text()).strip()


def _used(reader: Reader, label: str) -> bool:
    """Give a filter another value; False where it has no other, or is there no more."""
    page = reader.page
    widget = page.locator(FILTERS).filter(has=page.get_by_text(label, exact=True)).first
    if not widget.is_visible():
        return False
    before = page.url
    for _ in range(ATTEMPTS):
        if not _turned(page, widget):
            return False
        reader.rest()
        if page.url != before:
            return True
    pytest.fail(f"{label!r} does not get into the address")


def _turned(page: Any, widget: Any) -> bool:
    """Press, write or choose; False where there is nothing to choose."""
    kind = widget.get_attribute("data-testid")
    if kind == "stCheckbox":
        widget.locator("label").first.click()
    elif kind == "stTextInput":
        widget.locator("input").fill("sit")
        widget.locator("input").press("Enter")
    else:
        return _chosen(page, widget)
    return True


def _chosen(page: Any, widget: Any) -> bool:
    """Take an option that is not taken yet; False where there is none, or no more may be taken.

    By the keyboard: a list opens, and is then laid out again, and a click that misses it closes all that was open.
    """
    widget.locator("input").first.click()
    with suppress(PlaywrightTimeoutError):
        page.locator(OPTIONS).first.wait_for(timeout=UNTIL_DRAWN)
    others = page.locator(f'{OPTIONS}[aria-selected="false"]')
    found = others.count() > 0
    if found:
        page.keyboard.type(others.last.inner_text())
    page.keyboard.press("Enter" if found else "Escape")
    return bool(found)


def _keep(reader: Reader, path: Path) -> None:
    """A screenshot of what there is once pictures and charts are drawn, in few colours: for the documentation."""
    reader.page.wait_for_timeout(3000)
    path.parent.mkdir(parents=True, exist_ok=True)
    shot = Image.open(io.BytesIO(reader.page.screenshot())).convert("RGB").quantize(128)
    shot.save(path, optimize=True)
    assert path.stat().st_size < LARGEST_PICTURE
