"""The published record: every figure with its source, none invented, none twice, none ranked."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dsr import PRESETS
from harness import encoders, registry, tasks
from harness.backbone import Network
from harness.claims import Difference, Level
from harness.published import (
    CLAIM_COLUMNS,
    PUBLISHED_COLUMNS,
    Figure,
    Published,
    claim_rows,
    published_rows,
    read_published,
)

RESULTS = Path(__file__).parent.parent / "results"
OTHER_TASKS = {"t2i"}


@pytest.fixture(scope="module")
def published() -> Published:
    return read_published(RESULTS)


def _figure(**changes: Any) -> dict[str, Any]:
    plain = {
        "id": "paper/sit/fid",
        "model": "SiT",
        "metric": "fid",
        "value": 8.61,
        "unit": "distance",
        "places": ["Table 1"],
        "read": "authors' page",
        "confirmed": True,
    }
    return plain | changes


def _write(place: Path, name: str, *figures: dict[str, Any]) -> Path:
    path = place / "published" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"name": name, "title": "A paper", "arxiv": "2605.05206", "figures": figures}))
    return path


def test_the_record_of_this_project_is_whole(published: Published) -> None:
    assert published.problems == ()
    assert len(published.sources) == 14
    assert len(published.figures) == sum(len(source.figures) for source in published.sources)
    assert {figure.status for figure in published.figures.values()} == {"quoted"}


def test_no_figure_is_entered_twice(published: Published) -> None:
    entered = [
        (source.name, f.model, f.arm, f.metric, f.data, f.epochs, f.steps, f.guidance, f.reference, f.read)
        for source in published.sources
        for f in source.figures
    ]
    assert [each for each, count in Counter(entered).items() if count > 1] == []


def test_the_papers_tables_are_quoted_as_printed(published: Published) -> None:
    def fid(name: str) -> float:
        return published.figures[f"{name}/fid"].value

    dsr = "dsr/rae-dit-xl-siglip2-b"
    assert [fid(f"{dsr}/{arm}") for arm in ("none/80ep", "encoder/80ep", "denoiser/80ep", "dsr/80ep")] == [
        5.89,
        4.63,
        5.33,
        4.58,
    ]
    assert [fid(f"dsr/{model}/{arm}") for model in ("vae-sit-xl", "jit-h") for arm in ("none", "denoiser")] == [
        16.05,
        14.47,
        30.34,
        23.14,
    ]
    rae = [fid(f"registers-matter/rae-{size}/{arm}") for size in ("base", "large") for arm in ("none", "denoiser")]
    assert rae == [6.58, 7.48, 3.91, 4.44]


def test_what_sources_disagree_on_is_unconfirmed(published: Published) -> None:
    figures = published.figures
    table, curve = figures["dsr/rae-dit-xl-siglip2-b/none/80ep/fid"], figures["dsr/curve/none/80ep/fid"]
    assert (table.value, curve.value) == (5.89, 5.68)
    assert not table.confirmed
    assert not curve.confirmed
    assert figures["dsr/rae-dit-xl-siglip2-b/none/800ep/fid"].confirmed


def test_the_reference_of_dsr_is_unconfirmed(published: Published) -> None:
    own = [f for f in published.figures.values() if f.id.startswith("dsr/") and f.metric == "fid" and not f.cited]
    assert own
    assert {f.reference_confirmed for f in own} == {False}
    assert all("val" in f.reference for f in own)


def test_names_of_ours_are_ours(published: Published) -> None:
    for figure in published.figures.values():
        assert not figure.registers or figure.registers in PRESETS, figure.id
        assert not figure.family or figure.family in registry.families(), figure.id
        assert not figure.backbone or _is_backbone(figure.backbone, figure.family), figure.id
        assert not figure.encoder or figure.encoder in encoders.ENCODERS, figure.id
        assert not figure.task or figure.task in tasks.TASKS, figure.id


def test_claims_are_in_our_terms(published: Published) -> None:
    assert len(published.claims) >= 15
    for claim in published.claims:
        test = claim.test
        if isinstance(test, Difference | Level):
            presets = (*test.treatments, test.baseline) if isinstance(test, Difference) else (test.registers,)
            assert set(presets) <= set(PRESETS), claim.id
            assert set(test.families) <= set(registry.families()), claim.id
            for backbone in claim.setting.backbones:
                assert any(_is_backbone(backbone, family) for family in test.families), claim.id
            assert set(claim.setting.encoders) <= set(encoders.ENCODERS), claim.id
            assert set(claim.setting.treatments or ()) <= set(presets), claim.id
            assert claim.setting.task in {*tasks.TASKS, *OTHER_TASKS}, claim.id


def test_registers_enter_where_they_did_in_networks_of_a_published_depth(published: Published) -> None:
    settings = {claim.id: claim.setting for claim in published.claims}
    assert settings["dsr-lowers-fid"].start_blocks == {28: 8}
    assert settings["dsr-costs-ten-percent"].start_blocks == {12: 4, 28: 8}
    assert settings["rm-register-guidance-helps"].start_blocks == {12: 4, 32: 10}
    for name, setting in settings.items():
        sizes = [_network(backbone) for backbone in setting.backbones]
        assert set(setting.start_blocks) <= {network.depth for network in sizes}, name


def test_a_pull_request_shows_one_field_to_a_line() -> None:
    files = sorted((RESULTS / "published").glob("*.json"))
    assert files
    for path in files:
        text = path.read_text()
        assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n", path.name


def test_both_sides_of_the_dispute_are_there(published: Published) -> None:
    by_source = {claim.source for claim in published.claims}
    assert {
        "dsr-2605.05206",
        "registers-matter-2605.16147",
        "test-time-registers-2506.08010",
        "anima-lora",
    } <= by_source
    by_id = {claim.id: claim for claim in published.claims}
    assert "rm-registers-hurt-rae" in by_id["diffusion-registers-lower-fid-rae"].disputed_by


def test_rows_have_a_scalar_for_every_column(published: Published) -> None:
    for rows, columns in (
        (published_rows(published), PUBLISHED_COLUMNS),
        (claim_rows(published), CLAIM_COLUMNS),
    ):
        assert rows
        for row in rows:
            assert row.keys() == columns.keys()
            assert all(value is None or isinstance(value, str | int | float) for value in row.values())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metric": "fed"}, "is none of"),
        ({"value": -1.0}, "lies between"),
        ({"value": float("nan")}, "finite"),
        ({"metric": "precision", "unit": "share", "value": 68.6}, "lies between"),
        ({"unit": "share"}, "has no unit"),
        ({"status": "measured"}, "quoted"),
        ({"read": "measured from pixels of a plot"}, "cannot be confirmed"),
        ({"cited": True}, "cannot be confirmed"),
        ({"reference_confirmed": True}, "not named"),
        ({"places": []}, "at least 1"),
        ({"surprise": 1}, "not permitted"),
    ],
)
def test_a_figure_that_cannot_be_is_refused(changes: dict[str, Any], reason: str) -> None:
    Figure.model_validate(_figure())
    with pytest.raises(ValidationError, match=reason):
        Figure.model_validate(_figure(**changes))


def test_a_malformed_file_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    _write(tmp_path, "good", _figure())
    _write(tmp_path, "bad", _figure(id="bad/fid", value=-5))
    found = read_published(tmp_path)
    assert [source.name for source in found.sources] == ["good"]
    assert [path.name for path, _ in found.problems] == ["bad.json"]


@pytest.mark.parametrize("second", [_figure(value=9.0), _figure(id="paper/again/fid")])
def test_a_figure_that_stands_twice_in_a_file_is_refused(tmp_path: Path, second: dict[str, Any]) -> None:
    _write(tmp_path, "twice", _figure(), second)
    assert "stands twice" in read_published(tmp_path).problems[0][1]


def test_an_id_belongs_to_one_file(tmp_path: Path) -> None:
    _write(tmp_path, "first", _figure())
    _write(tmp_path, "second", _figure())
    assert [path.name for path, _ in read_published(tmp_path).problems] == ["second.json"]


def test_a_claim_rests_on_figures_that_there_are(tmp_path: Path) -> None:
    _write(tmp_path, "paper", _figure())
    test = {"kind": "level", "families": ["sit"], "metric": "outlier_max_over_median", "most": 5}
    claim = {"id": "one", "text": "It is so.", "source": "paper", "figures": ["paper/sit/fid"], "test": test}
    path = tmp_path / "published" / "claims.json"
    path.write_text(json.dumps({"claims": [claim]}))
    assert len(read_published(tmp_path).claims) == 1
    path.write_text(json.dumps({"claims": [claim | {"figures": ["nowhere/fid"]}]}))
    found = read_published(tmp_path)
    assert found.claims == ()
    assert "no figure nowhere/fid" in found.problems[0][1]


def _network(name: str) -> Network:
    """The network of an exact name such as `rae-dit-dh-xl`."""
    family = next(family for family in registry.families() if _is_backbone(name, family))
    return registry.find(family).sizes[name.removeprefix(f"{family}-")]


def _is_backbone(name: str, family: str) -> bool:
    return name.startswith(f"{family}-") and name.removeprefix(f"{family}-") in registry.find(family).sizes
