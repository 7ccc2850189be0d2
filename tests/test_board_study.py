"""The board's pages that compare: arms, token norms, claims and the rules, on real records and in odd states."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from streamlit.testing.v1 import AppTest

from harness import cli, store
from harness.contributing.rules import RULES
from harness.database import DATABASE, rebuild, snapshot
from harness.errors import UserError
from harness.outlier_records import OutlierStatistics
from harness.run import run
from leaderboard import compare_queries, norm_maps, outlier_queries, pictures, queries
from leaderboard.queries import Board
from leaderboard.screens.compare import sweep_command
from tests.builders import quick_config
from tests.test_store import make_record

PROJECT = Path(__file__).parent.parent / "results"
FEWER = "registers.denoiser.count=2"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real runs: sit with none, four registers and two, and two seeds of the first two; with the published claims."""
    place = tmp_path_factory.mktemp("study")
    for seed in (0, 1):
        for registers in ("none", "denoiser"):
            run(quick_config(place, "sit", registers, seed=seed))
    run(quick_config(place, "sit", "denoiser", FEWER))
    shutil.copytree(PROJECT / "published", place / "results" / "published")
    rebuild(place / "results")
    return place / "results"


@pytest.fixture
def board(results: Path) -> Iterator[tuple[pd.DataFrame, Board]]:
    with snapshot(results / DATABASE) as database:
        task, protocol = queries.boards(database).iloc[0][["task", "protocol"]]
        found = Board(task, protocol, queries.metrics(database, task, protocol)["key"][0])
        yield compare_queries.runs(database, found), found


def _page(name: str, results: Path, **query: str) -> AppTest:
    script = (
        "from pathlib import Path\nfrom leaderboard.view import opened\n"
        f"from leaderboard.screens import {name} as page\npage.show(opened(Path({str(results)!r})))"
    )
    page = AppTest.from_string(script, default_timeout=60)
    for key, value in query.items():
        page.query_params[key] = value
    page.run()
    assert not page.exception
    return page


def _said(page: AppTest) -> str:
    return "\n".join(each.value for kind in (page.markdown, page.info, page.caption, page.warning) for each in kind)


def test_differences_are_taken_seed_by_seed(board: tuple[pd.DataFrame, Board]) -> None:
    runs, _ = board
    values = runs.pivot_table(index="seed", columns="arm", values="value")
    (four,) = [arm for arm in map(str, values) if "4 from block" in arm]
    pair = compare_queries.pairwise(runs, ["sit-tiny none", four], "fd_digits", "lower").iloc[0]
    assert (pair["pairs"], pair["method"]) == (2, "seeds")
    assert pair["difference"] == pytest.approx((values[four] - values["sit-tiny none"]).mean())
    assert pair["low"] < pair["difference"] < pair["high"]


def test_arms_without_a_seed_in_common_have_no_difference(board: tuple[pd.DataFrame, Board]) -> None:
    runs = board[0]
    apart = runs[(runs["registers"] == "none") & (runs["seed"] == 1) | (runs["count"] == 2)]
    (pair,) = compare_queries.pairwise(apart, list(apart["arm"]), "fd_digits", "lower").to_dict("records")
    assert (pair["pairs"], pair["verdict"]) == (0, "not known")


def test_the_front_holds_what_nothing_beats() -> None:
    arms = pd.DataFrame(
        {
            "arm": ["cheap", "twin", "dear", "beaten", "uncounted"],
            "gflops": [1.0, 1.0, 3.0, 3.0, None],
            "mean": [9.0, 9.0, 4.0, 5.0, 1.0],
        }
    )
    assert compare_queries.front(arms, "lower") == ["cheap", "twin", "dear"]
    assert compare_queries.front(arms, "higher") == ["cheap", "twin"]
    assert compare_queries.front(arms, "neither") == []


def test_the_effect_map_has_a_cell_for_each_count_and_block(board: tuple[pd.DataFrame, Board]) -> None:
    cells = compare_queries.effects(board[0], "sit-tiny", "denoiser").set_index("count")
    assert cells["pairs"].to_dict() == {2: 1, 4: 2}


@pytest.mark.parametrize("backbone", ["sit-tiny", "rae-dit-tiny on stand-in latents"])
def test_the_sweep_that_the_page_proposes_is_one(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sweep_command(backbone, "denoiser", "digits", 4).split()[3:]
    places = ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    assert cli.main([*words, *places, "--dry-run"]) == 0
    assert "30 runs" in capsys.readouterr().out


def test_compare_draws_every_part_and_keeps_the_arms_in_the_address(results: Path) -> None:
    page = _page("compare", results, arm="sit-tiny none")
    assert page.multiselect(key="arm").value == ["sit-tiny none"]
    page = _page("compare", results, arm="no such arm")
    assert {each.value for each in page.subheader} >= {"Quality against cost", "Learning curves"}
    assert "On the Pareto front" in _said(page)
    assert page.dataframe[0].value["seeds"].max() == 2
    page.toggle(key="all").set_value(True).run()
    assert not page.exception


def test_a_missing_picture_is_said(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    for picture in copy.rglob("*.png"):
        picture.write_bytes(b"no picture")
    assert "is missing, or is none" in _said(_page("compare", copy))


def test_a_picture_is_enlarged_without_new_colours(results: Path) -> None:
    picture = pictures.opened(next(results.rglob("*.png")))
    assert picture is not None
    assert picture.width >= pictures.LEAST_WIDTH
    assert pictures.opened(results / "nothing.png") is None


def test_outliers_shows_a_run_beside_its_matched_run(results: Path, board: tuple[pd.DataFrame, Board]) -> None:
    runs = board[0]
    asked = runs[(runs["registers"] == "denoiser") & (runs["seed"] == 1)].iloc[0]
    page = _page("outliers", results, run=str(asked["run_id"]))
    said = _said(page)
    assert str(asked["run_id"]) in said
    assert str(asked["none_run_id"]) in said
    assert "no outliers here" in said
    assert "Its registers:" in said
    page.select_slider(key="block").set_value(2).run()
    assert not page.exception
    assert page.query_params["run"] == str(asked["run_id"])


def test_an_unknown_run_in_the_address_is_dropped(results: Path, board: tuple[pd.DataFrame, Board]) -> None:
    page = _page("outliers", results, run="<script>")
    assert page.query_params["run"] in set(board[0]["run_id"])


def test_norm_maps_that_are_missing_or_damaged_are_said(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    for file in copy.rglob("*.norms.safetensors"):
        file.write_bytes(b"damaged")
    assert "cannot be read" in _said(_page("outliers", copy))
    for file in copy.rglob("*.norms.safetensors"):
        file.unlink()
    rebuild(copy)
    assert "came without norm maps" in _said(_page("outliers", copy))


def _norms(path: Path, **changed: np.ndarray) -> Path:
    arrays: dict[str, np.ndarray] = {
        "images": np.zeros((2, 8, 8, 1), np.uint8),
        "times": np.array([0.1, 0.9], np.float32),
        "patches": np.arange(2 * 2 * 3 * 16, dtype=np.float16).reshape(2, 2, 3, 16),
        "registers": np.full((2, 2, 3, 1), np.nan, np.float16),
    }
    arrays |= changed
    save_file(arrays, path, {"norm maps": '{"blocks": [0, 4, 8]}'})
    return path


def test_norm_maps_are_read_by_block_number_and_noise_level(tmp_path: Path) -> None:
    maps = norm_maps.read(_norms(tmp_path / "a.safetensors"))
    assert maps.largest_place() == ("0.9", 8)
    (_, second) = maps.at("0.1", 4)
    assert second.tolist() == np.arange(112, 128).reshape(4, 4).tolist()
    assert maps.registers_at("0.1", 4) is None
    assert norm_maps.strip_of_norms(maps.at("0.9", 8), 200.0).height == norm_maps.CELL


@pytest.mark.parametrize(
    "changed",
    [
        {"images": np.zeros((2, 8, 8, 1), np.float32)},
        {"patches": np.zeros((1, 2, 3, 16), np.float16)},
        {"registers": np.zeros((2, 2, 3), np.float16)},
        {"times": np.zeros(3, np.float32)},
    ],
)
def test_arrays_of_other_shapes_are_no_norm_maps(changed: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has not the arrays"):
        norm_maps.read(_norms(tmp_path / "a.safetensors", **changed))


def _statistics(share: float, images: float | None) -> OutlierStatistics:
    return OutlierStatistics(
        block=0,
        time=0.5,
        median_norm=1.0,
        max_over_median=9.0,
        share_above_5x=0.0,
        channel_share=0.1,
        share_above_3x=share,
        images_above_3x=images,
    )


def test_the_verdict_in_words_follows_the_rule() -> None:
    verdict, sentence = outlier_queries.verdict_in_words([_statistics(0.01, 0.5), _statistics(0.0, 0.0)])
    assert (verdict, "at 1 of 2 blocks" in sentence) == ("outliers", True)
    assert outlier_queries.verdict_in_words([_statistics(0.0, 0.0)])[0] == "no outliers here"
    verdict, sentence = outlier_queries.verdict_in_words([_statistics(0.01, None)])
    assert (verdict, "older record" in sentence) == ("not measured", True)
    assert "no token norms" in outlier_queries.verdict_in_words([])[1]


def test_claims_are_filtered_and_lead_to_their_runs(results: Path, board: tuple[pd.DataFrame, Board]) -> None:
    page = _page("claims", results, claim="diffusion-registers-lower-fid-sit", tested="digits")
    table = page.dataframe[0].value
    assert set(table["task"]) == {"digits"}
    assert any(f"run?run={run_id}" in _said(page) for run_id in board[0]["run_id"])
    page.multiselect(key="verdict").set_value(["confirmed", "contradicted"]).run()
    assert not page.exception
    unmeasured = _page("claims", results, verdict="not yet measured").dataframe[0].value
    assert set(unmeasured["of these runs"]) == {"not yet measured"}
    assert unmeasured["paper"].str.startswith("https://").all()


def test_without_claims_the_page_says_what_to_do(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy, ignore=shutil.ignore_patterns("published"))
    assert "name the folder" in _said(_page("claims", copy))


def test_submit_explains_every_rule(results: Path) -> None:
    said = _said(_page("submit", results))
    assert [rule.name for rule in RULES if f"**{rule.name}**" not in said] == []


@pytest.mark.parametrize("name", ["compare", "outliers"])
def test_an_empty_database_and_one_record_with_nothing_in_it(name: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    rebuild(results)
    assert "No results yet" in _said(_page(name, results))
    record = make_record(quick_config(tmp_path)).model_copy(update={"measurements": (), "status": "diverged"})
    store.append(results, record, None)
    rebuild(results)
    _page(name, results)
