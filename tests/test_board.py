"""The leaderboard: its pages on real records, and in states that nobody wishes for."""

import hashlib
import io
import json
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import duckdb
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from streamlit.testing.v1 import AppTest

import leaderboard
from harness import database, store
from harness.attachments import Attachment, path_beside
from harness.comparability import Basis
from harness.digits_judge import EXTRACTOR, REFERENCE
from harness.evaluation_store import append_evaluation
from harness.run import run
from harness.spec import ThirdParty
from harness.withdrawals import withdraw
from leaderboard import queries
from leaderboard.listing import as_bytes
from leaderboard.text import MOST, plain
from tests.builders import harness, quick_config
from tests.test_store import make_evaluation, make_record

ROOT = Path(__file__).parent.parent
APP = Path(leaderboard.__file__).with_name("app.py")
UGLY = "<script>alert(1)</script> **bold** 🔥 " + "x" * 10_000


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four real runs: sit and dit, with and without registers."""
    place = tmp_path_factory.mktemp("board")
    for backbone in ("sit", "dit"):
        for registers in ("none", "dsr"):
            run(quick_config(place, backbone, registers))
    return place / "results"


def _page(
    results: Path, monkeypatch: pytest.MonkeyPatch, address: Mapping[str, list[str]] = MappingProxyType({})
) -> AppTest:
    monkeypatch.setattr(sys, "argv", ["app.py", str(results)])
    page = AppTest.from_file(str(APP), default_timeout=60)
    for name, values in address.items():
        page.query_params[name] = values
    page.run()
    assert not page.exception
    return page


def _keys(results: Path) -> dict[str, str]:
    """The comparability keys of the first board, by what the selector calls them."""
    with duckdb.connect(str(results / database.DATABASE), read_only=True) as connection:
        first = queries.boards(connection).iloc[0]
        found = queries.metrics(connection, first["task"], first["protocol"])
    return {f"{title} [{key[:6]}]": key for title, key in zip(found["title"], found["key"], strict=True)}


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
    assert set(runs["badge"]) == set(arms["badge"]) == {"measured"}


def test_the_answer_stands_before_the_tables(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(results, monkeypatch)
    (answer,) = [each.value for each in page.markdown if each.value.startswith("- ")]
    assert [line.split("**")[1] for line in answer.splitlines()] == [plain("dit-tiny"), plain("sit-tiny")]
    assert answer.count("1 seed)") == 2
    assert any(each.value.startswith("**Tokens**: none of 2 has two or more seeds") for each in page.markdown)
    assert "lie beside zero by chance" in page.caption[1].value
    order = [each.type for each in page.main]
    assert order.index("vega_lite_chart") < order.index("dataframe")


def test_filters_and_metrics_narrow_the_page(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(results, monkeypatch)
    (backbones,) = [box for box in page.sidebar.multiselect if box.label == "Backbone"]
    page = backbones.select("sit-tiny").run()
    assert set(page.dataframe[1].value["backbone"]) == {"sit-tiny"}
    (search,) = [box for box in page.sidebar.text_input if box.label == "Search"]
    page = search.input("NO encoder stage").run()
    assert list(page.dataframe[1].value["registers"]) == ["dsr"]
    page = search.input("no such word").run()
    assert "No run passes" in page.info[0].value
    page = search.input("").run()
    (metric,) = [box for box in page.sidebar.selectbox if box.label == "Metric"]
    for name in metric.options[-2:]:
        (box,) = [box for box in page.sidebar.selectbox if box.label == "Metric"]
        page = box.select(name).run()
        assert not page.exception


def test_a_shared_address_restores_the_view(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = {
        "key": [key for name, key in _keys(results).items() if name.startswith("digits_accuracy")],
        "registers": ["dsr", "never heard of"],
        "search": ["sit"],
        "runs_columns": ["Backbone", "Value"],
        "arms_order": ["GFLOPs"],
        "arms_descending": ["true"],
    }
    page = _page(results, monkeypatch, address)
    assert page.caption[0].value.startswith(plain("digits_accuracy"))
    assert list(page.dataframe[1].value.columns) == ["backbone", "value"]
    assert set(page.dataframe[1].value["backbone"]) == {"sit-tiny"}
    assert list(page.dataframe[0].value["label"]) == ["dsr"]
    assert page.query_params["registers"] == "dsr"
    assert "never heard of" in page.warning[0].value


@pytest.mark.parametrize("name", ["status", "badge", "seed"])
def test_a_filter_of_what_is_not_here_shows_nothing_and_says_so(
    name: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = _page(results, monkeypatch, {name: ["99"]})
    assert "99" in page.warning[0].value
    assert "No run passes" in page.info[0].value


@pytest.mark.parametrize("name", ["task", "protocol", "key"])
def test_a_board_that_is_not_here_is_said(name: str, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(results, monkeypatch, {name: ["**garbage**"]})
    assert "garbage" in page.warning[0].value
    assert len(page.dataframe[1].value) == 4


def test_what_was_chosen_stands_whole_in_the_address(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of it as long as nobody chose: the plain address is that of the board as it comes."""
    page = _page(results, monkeypatch)
    assert not {"task", "protocol", "key"} & set(page.query_params)
    (metric,) = [box for box in page.sidebar.selectbox if box.label == "Metric"]
    chosen = metric.options[1]
    page = metric.select(chosen).run()
    assert page.query_params["key"] == _keys(results)[chosen]
    address = {name: [str(page.query_params[name])] for name in ("task", "protocol", "key")}
    again = _page(results, monkeypatch, address)
    assert not again.warning
    assert again.caption[0].value == page.caption[0].value


def test_what_is_counted_costs_and_what_the_machine_decides_is_not_judged(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start, said in (("gflops [", "What do they cost?"), ("train_seconds", "not compared")):
        (key,) = [key for name, key in _keys(results).items() if name.startswith(start)]
        page = _page(results, monkeypatch, {"key": [key]})
        assert any(said in each.value for each in (*page.subheader, *page.info))
        assert not any("by chance" in each.value for each in page.caption)
        assert not set(page.dataframe[0].value["verdict"]) & {"helps", "harms"}


def test_a_search_finds_arms_not_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    two = quick_config(tmp_path, "sit", "denoiser", "registers.denoiser.count=2")
    for config in (quick_config(tmp_path, "sit", "denoiser"), two):
        store.append(results, make_record(config), None)
    database.rebuild(results)
    page = _page(results, monkeypatch, {"search": [two.run_id]})
    assert list(page.dataframe[0].value["runs"]) == [1]


def test_an_order_is_that_of_its_column(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(results, monkeypatch, {"runs_order": ["Value"], "runs_descending": ["true"]})
    values = list(page.dataframe[1].value["value"])
    assert values == sorted(values, reverse=True)
    assert len(values) == 4


def test_what_is_downloaded_is_what_is_shown() -> None:
    shown = pd.DataFrame({"backbone": ["sit", UGLY], "value": [1.5, None], "seed": [0, 2**40]})
    assert_frame_equal(pd.read_csv(io.BytesIO(as_bytes(shown, "csv"))), shown, check_dtype=False)
    assert_frame_equal(pd.read_parquet(io.BytesIO(as_bytes(shown, "parquet"))), shown, check_dtype=False)
    assert json.loads(as_bytes(shown, "json")) == [
        {"backbone": "sit", "value": 1.5, "seed": 0},
        {"backbone": UGLY, "value": None, "seed": 2**40},
    ]


def test_badges_and_quoted_figures_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verified is what has its moments beside it; what others published is in a table of its own."""
    results = tmp_path / "results"
    moments = b"moments"
    attached = Attachment(sha256=hashlib.sha256(moments).hexdigest(), size=len(moments))
    for registers, update in (("none", {"moments": attached}), ("denoiser", {})):
        record = make_record(quick_config(tmp_path, "sit", registers)).model_copy(update=update)
        judged = tuple(
            m.model_copy(update={"name": "fid"}) if m.name == "fd_digits" else m for m in record.measurements
        )
        path = store.append(results, record.model_copy(update={"measurements": judged}), None)
        if update:
            path_beside(path, "moments").write_bytes(moments)
    shutil.copytree(ROOT / "results" / "published", results / "published")
    database.rebuild(results)
    page = _page(results, monkeypatch)
    arms, runs, quoted = (table.value for table in page.dataframe[:3])
    assert dict(zip(runs["registers"], runs["badge"], strict=True)) == {"none": "verified", "denoiser": "measured"}
    assert set(arms["badge"]) == {"verified", "measured"}
    assert set(quoted["badge"]) == {"quoted"}
    assert quoted["paper"].str.contains("arxiv.org/abs/").any()
    assert len(runs) == 2


def test_what_was_withdrawn_is_listed_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    kept, taken_back = (make_record(quick_config(tmp_path, seed=seed)) for seed in (0, 1))
    store.append(results, kept, None)
    withdraw(results, store.append(results, taken_back, None), "trained on the test images")
    database.rebuild(results)
    page = _page(results, monkeypatch)
    assert len(page.dataframe[1].value) == 1
    (panel,) = [each for each in page.expander if "withdrawn" in each.label]
    assert list(panel.dataframe[0].value["reason"]) == ["trained on the test images"]


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
    assert any("malformed" in each.label for each in page.expander)


def test_names_that_nobody_wishes_for_are_shown_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    for registers in ("none", "denoiser"):
        config = quick_config(tmp_path, "sit", registers)
        update = {
            "task": config.task.model_copy(update={"name": "<b>:fire: **שלום** $x$"}),
            "size": UGLY,
            "third_party": ThirdParty(file=UGLY, sha256="0" * 64),
        }
        store.append(results, make_record(config.model_copy(update=update)), None)
    database.rebuild(results)
    page = _page(results, monkeypatch)
    assert not page.error
    assert page.dataframe[1].value["third_party"].str.len().max() <= MOST
    (answer,) = [each.value for each in page.markdown if each.value.startswith("- ")]
    assert len(answer) < 1000
    for mark in ("<script>", "**bold**", ":fire:"):
        assert mark not in answer


@pytest.mark.parametrize("damage", ["garbage", "another version"])
def test_a_database_that_cannot_be_read_is_said_in_a_sentence(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    store.append(results, make_record(quick_config(tmp_path)), None)
    database.rebuild(results)
    page = _page(results, monkeypatch)
    file = results / database.DATABASE
    if damage == "garbage":
        file.write_bytes(b"no database" * 1000)
    else:
        with duckdb.connect(str(file)) as connection:
            connection.execute("ALTER TABLE runs DROP COLUMN third_party")
    page.run()
    assert not page.exception
    assert "python \\-m harness index" in page.error[0].value


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
