"""The page "Text to image": scores by GenEval's rules of synthetic records, and in states that nobody wishes for."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import duckdb
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

import leaderboard
from harness import database, store
from harness.attachments import attachment_of, path_beside
from harness.comparability import Basis, ExtractorIdentity, ReferenceIdentity
from harness.evaluation_store import append_evaluation
from harness.metrics.geneval.prompt import TAGS, Clause, Prompt
from harness.metrics.geneval.summary import summarise
from harness.metrics.geneval.values import measurements
from harness.metrics.geneval.verdict_files import encode
from harness.metrics.geneval.verdicts import ImageVerdict, PromptVerdicts
from harness.published import read_published
from harness.records import Measurement, RunRecord
from harness.spec import RunConfig
from harness.text_config import TextConfig
from leaderboard import geneval_charts, geneval_queries, queries
from leaderboard.claims import judge
from leaderboard.export_geneval import page_of_geneval
from leaderboard.geneval_quoted import SCORES, quoted, standard_errors, z_of
from leaderboard.queries import Board
from leaderboard.text import MOST
from tests.builders import quick_config
from tests.test_store import make_evaluation, make_record

PROJECT = Path(__file__).parent.parent / "results"
APP = Path(leaderboard.__file__).with_name("app.py")
UGLY = "<script>alert(1)</script> **bold** :rocket: $x^2$ \u202e" + "x" * 5_000
TASK = "shapes-t2i"
BASIS = Basis(
    extractor=ExtractorIdentity(name="exact", version="1", weights_sha256="0" * 64),
    reference=ReferenceIdentity(name="shapes-prompts", sha256="1" * 64),
)
PROMPTS_OF_A_TAG, IMAGES = 3, 4


def _config(place: Path, registers: str, seed: int) -> RunConfig:
    config = quick_config(place, "sit", registers, seed=seed)
    text = TextConfig(width=16, tokens=8, vocabulary=20, depth=1)
    return config.model_copy(update={"task": config.task.model_copy(update={"name": TASK}), "text": text})


def _verdicts(right: int, words: str = "a red circle") -> list[PromptVerdicts]:
    """`right` of the four images of each prompt show what it asks for, and one more of the first."""
    wrong = ImageVerdict(correct=False, reason="expected circle>=1, found 0\nexpected red circle>=1, found 0 red")
    return [
        PromptVerdicts(
            prompt=Prompt(tag=tag, include=(Clause(object_class="circle", count=1),), prompt=f"{words} {number}"),
            images=tuple(
                ImageVerdict(correct=True) if image < right + (number == 0) else wrong for image in range(IMAGES)
            ),
        )
        for tag in TAGS
        for number in range(PROMPTS_OF_A_TAG)
    ]


def _measured(verdicts: list[PromptVerdicts], prefix: str = "geneval_shapes") -> tuple[Measurement, ...]:
    """With the level of chance beside each score but that of single objects."""
    return tuple(
        each.model_copy(update={"parts": {**each.parts, "chance": 0.125}})
        if not each.name.endswith(("accuracy", "single_object"))
        else each
        for each in measurements(summarise(verdicts), prefix, BASIS)
    )


def _append(results: Path, config: RunConfig, verdicts: list[PromptVerdicts], *, has_file: bool = True) -> Path:
    content = encode(verdicts)
    update = {"measurements": _measured(verdicts), "verdicts": attachment_of(content) if has_file else None}
    record: RunRecord = make_record(config).model_copy(update=update)
    return store.append(results, record, None, verdicts=content if has_file else None)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of none and of denoiser, one of plain without verdicts; a run of digits; and what is published."""
    place = tmp_path_factory.mktemp("geneval")
    results = place / "results"
    shutil.copytree(PROJECT / "published", results / "published")
    for seed in (0, 1):
        _append(results, _config(place, "none", seed), _verdicts(1))
        _append(results, _config(place, "denoiser", seed), _verdicts(2 + seed))
    _append(results, _config(place, "plain", 0), _verdicts(3), has_file=False)
    store.append(results, make_record(quick_config(place)), None)
    database.rebuild(results)
    return results


def _page(
    results: Path, monkeypatch: pytest.MonkeyPatch, address: Mapping[str, list[str]] = MappingProxyType({})
) -> AppTest:
    """The page alone: `AppTest` cannot go to an address, so that the app is told that this one is its first."""
    monkeypatch.setattr(sys, "argv", ["app.py", str(results)])
    page = AppTest.from_function(_draw, default_timeout=60)
    for name, values in address.items():
        page.query_params[name] = values
    page.run()
    assert not page.exception
    return page


def _draw() -> None:
    import sys
    from pathlib import Path

    from leaderboard.screens import geneval
    from leaderboard.view import opened

    view = opened(Path(sys.argv[1]))
    assert view is not None
    geneval.show(view)


def _scores(results: Path) -> pd.DataFrame:
    with duckdb.connect(str(results / database.DATABASE), read_only=True) as connection:
        (board,) = geneval_queries.boards(connection).to_dict("records")
        (metric,) = geneval_queries.metrics(connection, board["task"], board["protocol"]).to_dict("records")
        where = Board(board["task"], board["protocol"], metric["key"])
        return geneval_queries.scores(connection, where, metric["name"])


def _of(scores: pd.DataFrame, registers: str, category: str) -> dict[str, Any]:
    """One arm's scores in one category."""
    mine = scores[(scores["registers"] == registers) & (scores["category"] == category)]
    (row,) = mine.to_dict("records")
    return {str(name): value for name, value in row.items()}


def _tables(page: AppTest) -> list[pd.DataFrame]:
    return [each.value for each in page.dataframe]


def test_every_arm_has_its_scores_in_percent_with_the_difference_to_none(results: Path) -> None:
    scores = _scores(results)
    none, ours = _of(scores, "none", "counting"), _of(scores, "denoiser", "counting")
    assert none["mean"] == pytest.approx(100 * 4 / 12)
    assert ours["mean"] == pytest.approx(100 * (7 / 12 + 10 / 12) / 2)
    assert ours["difference"] == pytest.approx(ours["mean"] - none["mean"])
    assert (ours["pairs"], ours["interval"], ours["text"]) == (2, "seeds", "cross-attention, words")
    assert ours["low"] < ours["mean"] < ours["high"]
    of_tags = [_of(scores, "denoiser", tag)["mean"] for tag in TAGS]
    assert _of(scores, "denoiser", "overall")["mean"] == pytest.approx(sum(of_tags) / len(TAGS))
    assert set(scores["category"]) == set(geneval_queries.TITLES)


def test_one_seed_has_the_interval_over_prompts_and_no_verdict(results: Path) -> None:
    scores = _scores(results)
    plain = _of(scores, "plain", "counting")
    share = next(each for each in _measured(_verdicts(3)) if each.name == "geneval_shapes_counting")
    assert (plain["low"], plain["high"]) == (100 * share.parts["low"], 100 * share.parts["high"])
    assert (plain["interval"], plain["verdict"]) == ("prompts", "not known")
    assert pd.isna(plain["difference_half_width"])


def test_chance_is_shown_where_the_record_tells_it_and_never_zero(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = _scores(results)
    assert _of(scores, "none", "colors")["chance"] == 12.5
    assert pd.isna(_of(scores, "none", "single_object")["chance"])
    said = [each.value for each in _page(results, monkeypatch).caption]
    assert any("counting 12.5 %" in each and "single object" not in each for each in said)


def test_the_page_shows_arms_chart_grids_and_prompts(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(results, monkeypatch)
    assert page.title[0].value == "Text to image"
    arms, prompts, models = _tables(page)
    assert list(arms["label"]) == ["none", "denoiser", "plain"]
    assert {"overall mean", "image_accuracy mean", "color_attr difference"} <= set(arms.columns)
    assert len(prompts) == PROMPTS_OF_A_TAG * len(TAGS)
    assert prompts["reasons"].iloc[1] == "3 x expected circle>=1, found 0; 3 x expected red circle>=1, found 0 red"
    assert {"GenEval", "DPG-Bench", "Two object"} <= set(models.columns)
    assert len(page.get("vega_lite_chart")) == 2


def test_quoted_figures_are_in_percent_and_apart_from_what_was_measured(results: Path) -> None:
    with duckdb.connect(str(results / database.DATABASE), read_only=True) as connection:
        found = quoted(connection)
    models = found.models.set_index("arm")
    assert [models["GenEval"][arm] for arm in ("baseline", "+ DSR")] == [42.6, 46.6]
    assert [models["DPG-Bench"][arm] for arm in ("baseline", "+ DSR")] == [74.3, 75.4]
    two_object = found.models.set_index("model")["Two object"]
    assert two_object["CLIP retrieval"] == pytest.approx(22)
    assert found.models[list(SCORES.values())].max().min() > 5
    assert found.curves["is_hidden"].sum() == 6
    assert len(found.curves) == 20


def test_what_is_to_be_thought_of_the_papers_numbers_is_said(results: Path) -> None:
    with duckdb.connect(str(results / database.DATABASE), read_only=True) as connection:
        said = " ".join(quoted(connection).remarks)
    assert "one training each" in said
    assert "1.06 points" in said
    assert "2.13" in said
    assert "+4.0 points are 1.3 to 2.7 standard errors" in said
    assert "GenEval at 4,000 steps (33.8 against 34.1)" in said
    assert "between −0.38 and −0.58" in said


def test_prompts_whose_images_are_alike_are_worth_one_image() -> None:
    least, most = standard_errors(45.0)
    assert most == pytest.approx(2 * least)
    weakest, strongest = z_of(42.6, 46.6)
    assert strongest == pytest.approx(2 * weakest)
    assert z_of(46.6, 42.6) == (weakest, strongest)


def test_published_metrics_are_named_as_measured_ones() -> None:
    named = {figure.metric for figure in read_published(PROJECT).figures.values()}
    measured = {each.name for each in measurements(summarise(_verdicts(1)), "geneval", BASIS)}
    assert {name for name in named if name.startswith("geneval")} <= measured
    assert {f"geneval_{tag}" for tag in TAGS} <= named


@pytest.mark.parametrize("damage", ["missing", "other bytes"])
def test_verdicts_that_cannot_be_read_are_said_in_a_sentence(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    path = _append(results, _config(tmp_path, "none", 0), _verdicts(1))
    database.rebuild(results)
    file = path_beside(path, "verdicts")
    file.unlink() if damage == "missing" else file.write_bytes(b"x" * file.stat().st_size)
    page = _page(results, monkeypatch)
    assert str(tmp_path) not in page.warning[0].value
    assert len(page.warning) == 1
    assert len(_tables(page)) == 1


def test_a_run_without_verdicts_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    _append(results, _config(tmp_path, "none", 0), _verdicts(1), has_file=False)
    database.rebuild(results)
    assert any("without the verdicts" in each.value for each in _page(results, monkeypatch).info)


def test_prompts_are_narrowed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(results, monkeypatch)
    (categories,) = [each for each in page.multiselect if each.label == "Category"]
    page = categories.select("colors").run()
    assert set(_tables(page)[1]["category"]) == {"colors"}
    (wrong,) = [each for each in page.toggle if each.key == "wrong"]
    shown = _tables(wrong.set_value(True).run())[1]
    assert (shown["correct"] < shown["images"]).all()
    assert len(shown) == PROMPTS_OF_A_TAG


def test_ugly_prompts_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    verdicts = [
        each.model_copy(
            update={
                "prompt": each.prompt.model_copy(
                    update={"tag": UGLY if each.prompt.tag == "colors" else each.prompt.tag}
                ),
                "images": (ImageVerdict(correct=False, reason=UGLY),),
            }
        )
        for each in _verdicts(1, UGLY)
    ]
    content = encode(verdicts)
    update = {"measurements": _measured(_verdicts(1)), "verdicts": attachment_of(content)}
    record = make_record(_config(tmp_path, "none", 0)).model_copy(update=update)
    store.append(results, record, None, verdicts=content)
    database.rebuild(results)
    prompts = _tables(_page(results, monkeypatch))[1]
    assert max(prompts[name].str.len().max() for name in ("category", "prompt", "reasons")) <= MOST
    assert not prompts["prompt"].str.contains("\u202e").any()


def test_nothing_scored_is_said_and_what_is_published_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    shutil.copytree(PROJECT / "published", results / "published")
    store.append(results, make_record(quick_config(tmp_path)), None)
    database.rebuild(results)
    page = _page(results, monkeypatch)
    assert "Nothing was scored" in page.info[0].value
    assert len(_tables(page)) == 1


def test_a_run_that_was_made_anew_and_diverged_has_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    config = _config(tmp_path, "none", 0)
    _append(results, config, _verdicts(1))
    lost = make_record(config, minutes=5).model_copy(update={"status": "diverged", "measurements": ()})
    store.append(results, lost, None)
    database.rebuild(results)
    assert "has a value" in _page(results, monkeypatch).info[0].value
    assert _scores(results)["mean"].isna().all()


def test_images_from_elsewhere_stand_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    config = quick_config(tmp_path)
    record = make_evaluation(config, make_record(config).conditions)
    update = {"run_id": None, "title": "somebody's", "measurements": _measured(_verdicts(2), "geneval")}
    append_evaluation(results, record.model_copy(update=update))
    database.rebuild(results)
    page = _page(results, monkeypatch)
    (table,) = _tables(page)
    assert table["title"].tolist() == ["somebody's"]
    assert table["Mean of six"].iloc[0] == pytest.approx(100 * 7 / 12)


def test_the_score_stands_before_its_categories_on_the_leaderboard(results: Path) -> None:
    with duckdb.connect(str(results / database.DATABASE), read_only=True) as connection:
        (board,) = geneval_queries.boards(connection).to_dict("records")
        found = queries.metrics(connection, board["task"], board["protocol"])
    assert found["name"].iloc[0] == "geneval_shapes"
    judged = found[found["name"].str.startswith("geneval")]
    assert set(judged["better"]) == {"higher"}


def test_the_claim_has_a_row_of_the_embedded_task_and_stays_unmeasured_as_published(results: Path) -> None:
    _, judged = judge(results)
    (claim,) = [each for each in judged if each.claim.id == "dsr-raises-geneval"]
    assert claim.verdict == "not yet measured"
    (row,) = claim.rows
    assert (row.task, row.arm, row.metric, len(row.pairs)) == (TASK, "denoiser", "geneval_shapes", 2)
    assert row.below_scale == (f"task {TASK}, not t2i",)


def test_the_charts_are_of_vega_lite_and_say_chance_only_where_it_is_told(results: Path) -> None:
    scores = _scores(results).assign(arm=lambda table: table["label"], title=lambda table: table["category"])
    with_chance = geneval_charts.by_category(scores).to_dict()
    assert with_chance["layer"][0]["mark"]["type"] == "tick"
    without = geneval_charts.by_category(scores.assign(chance=float("nan"))).to_dict()
    assert all(layer["mark"]["type"] != "tick" for layer in without["layer"])
    with duckdb.connect(str(results / database.DATABASE), read_only=True) as connection:
        curves = quoted(connection).curves
    hollow = geneval_charts.quoted_curves(curves, "GenEval").to_dict()["layer"][1]
    assert hollow["transform"] == [{"filter": "datum.is_hidden"}]
    assert "fill" not in hollow["encoding"]


def test_the_export_has_a_page_of_it(results: Path) -> None:
    with duckdb.connect(str(results / database.DATABASE), read_only=True) as connection:
        text = page_of_geneval(connection).decode()
    assert TASK in text
    assert "standard errors of the difference" in text
    assert text.count("<svg") == 3
    assert "By chance" in text
