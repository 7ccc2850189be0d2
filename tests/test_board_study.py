"""The board's pages that compare: arms, token norms, claims and the rules, on real records and in odd states."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
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
from harness.spec import ThirdParty
from leaderboard import compare_queries, norm_maps, outlier_charts, outlier_queries, pictures, queries
from leaderboard.compare_charts import effect_map
from leaderboard.differences import judged_arms
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
        judged = judged_arms(database, found, "fd_digits", "lower")
        yield compare_queries.named(compare_queries.runs(database, found), judged), found


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
    pair = compare_queries.pairwise(
        runs, compare_queries.arms(runs), ["sit-tiny none", four], "fd_digits", "lower"
    ).iloc[0]
    assert (pair["pairs"], pair["method"]) == (2, "seeds")
    assert pair["difference"] == pytest.approx((values[four] - values["sit-tiny none"]).mean())
    assert pair["low"] < pair["difference"] < pair["high"]


def test_arms_without_a_seed_in_common_have_no_difference(board: tuple[pd.DataFrame, Board]) -> None:
    runs = board[0]
    apart = runs[(runs["registers"] == "none") & (runs["seed"] == 1) | (runs["count"] == 2)]
    found = compare_queries.pairwise(apart, compare_queries.arms(apart), list(apart["arm"]), "fd_digits", "lower")
    (pair,) = found.to_dict("records")
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


def test_whatever_order_arms_were_picked_in_none_is_subtracted(board: tuple[pd.DataFrame, Board]) -> None:
    runs = board[0]
    measured = compare_queries.arms(runs)
    arms = list(measured["arm"])
    one, other = (
        compare_queries.pairwise(runs, measured, picked, "fd_digits", "lower") for picked in (arms, arms[::-1])
    )
    assert one.equals(other)
    assert list(one["first"][:2]) == ["sit-tiny none"] * 2


def test_between_two_backbones_nothing_helps_or_harms(board: tuple[pd.DataFrame, Board]) -> None:
    none = board[0][board[0]["registers"] == "none"]
    other = none.assign(backbone="dit", arm="dit none", place=9, value=none["value"] / 9)
    both = pd.concat([none, other])
    (pair,) = compare_queries.pairwise(
        both, compare_queries.arms(both), ["dit none", "sit-tiny none"], "gflops", "lower"
    ).to_dict("records")
    assert (pair["second"], pair["verdict"]) == ("dit none", "smaller")


def test_arms_of_another_training_length_are_told_apart(board: tuple[pd.DataFrame, Board]) -> None:
    runs = board[0].copy()
    runs.loc[runs["count"] == 2, "steps"] += 1
    arms = compare_queries.arms(runs).set_index("count")["has_other_length"]
    assert (arms.get(2), arms.get(4)) == (True, False)


def test_the_effect_map_has_a_cell_for_each_arm(results: Path, board: tuple[pd.DataFrame, Board]) -> None:
    runs, of = board
    with snapshot(results / DATABASE) as database:
        judged = judged_arms(database, of, "fd_digits", "lower")
    (setting,) = compare_queries.settings(runs)
    cells = compare_queries.effects(judged, runs, setting, "denoiser")
    assert dict(zip(cells["tokens"], cells["pairs"], strict=True)) == {"2": 1, "4": 2}
    assert cells["high"].notna().all()
    judged["count"] = judged["count"].fillna(4).where(judged["registers"] == "none", 4)
    same = compare_queries.effects(judged, runs, setting, "denoiser")
    assert len(set(same["tokens"])) == 2


def test_runs_of_two_settings_are_two_maps(board: tuple[pd.DataFrame, Board]) -> None:
    """As those of two files of backbones that have one name, or of trainings of two lengths."""
    other = board[0].assign(setting="another", backbone="sit-tiny (third-party): mine.py")
    longer = board[0].assign(setting="longer", steps=9)
    names = compare_queries.settings(pd.concat([board[0], other, longer]))
    assert len(set(names.values())) == 3
    assert names["another"] == "sit-tiny (third-party): mine.py"
    assert names["longer"] == "sit-tiny, 9 steps"


def test_a_cell_is_pale_unless_its_difference_is_sure() -> None:
    cell = {"tokens": "4", "start_block": 0, "pairs": 3, "difference": -1.0, "half_width": 5.0, "low": -6.0}
    cells = pd.DataFrame([{**cell, "high": 4.0, "method": "seeds", "verdict": "shows nothing"}])
    layers = effect_map(cells, "").to_dict()["layer"]
    assert [layer["mark"]["type"] for layer in layers] == ["rect", "text"]
    (_, coloured, _) = effect_map(cells.assign(verdict="helps"), "").to_dict()["layer"]
    assert coloured["encoding"]["color"]["scale"]["domain"] == [-6.0, 6.0]


@pytest.mark.parametrize("backbone", ["sit", "rae-dit"])
def test_the_sweep_that_the_page_proposes_is_one(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = ["latents.kind=stand-in"] if backbone == "rae-dit" else []
    words = shlex.split(sweep_command(quick_config(tmp_path, backbone, "denoiser", *stand_in)))[3:]
    places = ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    assert cli.main([*words, *places, "--dry-run"]) == 0
    assert "21 runs" in capsys.readouterr().out


def test_the_sweep_of_a_backbone_from_elsewhere_names_its_file(tmp_path: Path) -> None:
    foreign = ThirdParty(file="my net.py", sha256="0" * 64)
    config = quick_config(tmp_path, "sit", "denoiser").model_copy(update={"third_party": foreign})
    words = shlex.split(sweep_command(config))
    assert words[words.index("--backbone") + 1] == "PATH/my net.py:sit-tiny"


def test_compare_draws_every_part_and_keeps_the_arms_in_the_address(results: Path) -> None:
    page = _page("compare", results, arm="sit-tiny none")
    assert page.multiselect(key="arm").value == ["sit-tiny none"]
    page = _page("compare", results, arm="no such arm")
    assert {each.value for each in page.subheader} >= {"Quality against cost", "Learning curves"}
    assert "On the Pareto front" in _said(page)
    assert page.dataframe[0].value["seeds"].max() == 2
    assert page.dataframe[0].value["difference of"].str.endswith("− none").any()
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


def test_a_run_with_norm_maps_is_shown_before_one_without(
    board: tuple[pd.DataFrame, Board], results: Path, tmp_path: Path
) -> None:
    copy = tmp_path / DATABASE
    shutil.copyfile(results / DATABASE, copy)
    with duckdb.connect(copy) as database:
        first = outlier_queries.largest(database, board[1])
        database.execute("UPDATE runs SET norm_maps = NULL WHERE run_id = $1", [first])
        assert outlier_queries.largest(database, board[1]) not in (first, None)


def test_a_run_without_a_number_is_not_in_the_legend() -> None:
    none, some = (pd.DataFrame({"run": [name], "block": [0], "norm": [norm]}) for name, norm in (("a", None), ("b", 1)))
    layers = outlier_charts.over_blocks(pd.concat([none, some]), "norm", "", ["none", "dsr"]).to_dict()["layer"]
    assert layers[1]["encoding"]["color"]["scale"]["domain"] == ["b"]


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
    said = '{"blocks": [0, 4, 8], "depth": 9, "noise_levels": [0.1, 0.9], "image_numbers": [0, 9]}'
    save_file(arrays, path, {"norm maps": said})
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
    rebuild(copy)
    said = _said(_page("claims", copy))
    assert "name the folder" in said
    assert str(tmp_path) not in said


def test_tiles_count_claims_as_published_and_runs_of_a_task_below_them(results: Path) -> None:
    page = _page("claims", results)
    tiles = {metric.label: int(metric.value) for metric in page.metric}
    claims = len(page.selectbox(key="claim").options)
    assert sum(tiles.values()) == claims
    assert tiles["Not yet measured"] == claims
    (line,) = [caption.value for caption in page.caption if caption.value.startswith("On digits")]
    counts = [int(count) for count in re.findall(r"(\d+) (?:confirmed|contradicted|inconclusive|not yet)", line)]
    assert sum(counts) == claims


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
