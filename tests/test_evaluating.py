"""Anybody's images get numbers that say what they rest on; an interrupted evaluation goes on."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from harness import provenance
from harness.comparability import UNGUIDED, Basis, GuidanceUsed
from harness.data import digits
from harness.declaring import parse
from harness.digits_judge import EXTRACTOR, REFERENCE
from harness.errors import UserError
from harness.evaluating import Evaluated, Folders, Request
from harness.evaluating import evaluate as evaluate_in
from harness.evaluation_report import report
from harness.files import sha256_of
from harness.image_sets import Expected
from harness.judging import Setting, score_run
from harness.metric_definitions import all_definitions, definitions_of
from harness.metrics.frechet import frechet_distance
from harness.metrics.moments import moments
from harness.open_extractor import open_extractor
from harness.reference_building import Wanted, build
from harness.reference_import import Published, import_statistics
from harness.run import run
from harness.stored_images import CHUNK
from tests.builders import quick_config
from tests.test_image_sets import random_images, write_folder, write_npz
from tests.test_references import statistics_file
from tests.tiny_extractor import KilledError, TinyExtractor


def setting_of(place: Path, extractor: TinyExtractor | None = None) -> Setting:
    plain = Setting(place / "references")
    return replace(plain, open_extractor=lambda *_: extractor) if extractor else plain


def evaluate(request: Request, setting: Setting, *, again: bool = False) -> Evaluated:
    """With its records beside the references."""
    place = setting.references.parent
    return evaluate_in(request, Folders(place / "runs", place / "results"), setting, again=again)


def digits_file(path: Path, count: int = 200, shift: int = 0) -> Path:
    indices = np.arange(count)
    return write_npz(path, np.roll(digits().pixels(indices), shift, axis=3), labels=digits().labels[:count])


def reference(place: Path, name: str, seed: int, extractor: TinyExtractor | None = None) -> None:
    folder = write_folder(place / f"images-{name}", random_images(60, seed=seed))
    build(Wanted(folder, name, crop="none"), extractor or TinyExtractor(), place / "references")


def test_grey_digits_are_compared_with_the_digits_as_a_run_is(tmp_path: Path) -> None:
    place = digits_file(tmp_path / "a.npz", shift=1)
    record = evaluate(Request(place), setting_of(tmp_path)).record
    pixels = np.roll(digits().pixels(np.arange(200)), 1, axis=3)
    cpu = torch.device("cpu")
    seen = open_extractor("digits", None, cpu).extract(pixels)
    real = open_extractor("digits", None, cpu).extract(digits().pixels(np.arange(1797)))
    assert seen.probabilities is not None
    share = (seen.probabilities.argmax(1) == digits().labels[:200]).mean()
    assert record.value("digits_accuracy") == share
    plain = frechet_distance(moments(seen.pooled), moments(real.pooled))
    assert record.value("fd_digits") == pytest.approx(plain, abs=1e-9, rel=1e-9)
    unknown = GuidanceUsed(kind="unknown", chosen="unknown")
    for name, against in (("fd_digits", REFERENCE), ("digits_accuracy", None)):
        found = next(m for m in record.measurements if m.name == name)
        assert found.basis == Basis(extractor=EXTRACTOR, reference=against, guidance=unknown)
    names = [m.name for m in record.measurements]
    assert sorted(names) == sorted(d.name for d in definitions_of("digits"))
    distance = next(m for m in record.measurements if m.name == "fd_digits")
    assert distance.parts["mean"] + distance.parts["covariance"] == pytest.approx(distance.value)
    assert distance.standard_error


def test_the_same_images_are_at_distance_zero(tmp_path: Path) -> None:
    record = evaluate(Request(digits_file(tmp_path / "a.npz", 1797)), setting_of(tmp_path)).record
    assert record.value("fd_digits") == 0.0
    assert record.value("precision_digits") == 1.0


def test_several_references_stand_side_by_side(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        reference(tmp_path, name, seed)
    place = write_npz(tmp_path / "a.npz", random_images(40))
    evaluated = evaluate(Request(place, ("one", "two")), setting_of(tmp_path, TinyExtractor()))
    distances = [m for m in evaluated.record.measurements if m.name == "fd_tiny"]
    assert [m.basis.reference.name for m in distances if m.basis and m.basis.reference] == ["one", "two"]
    assert distances[0].value != distances[1].value
    keys = [evaluated.record.key(m) for m in distances]
    assert any(text.startswith("reference sha256") for text in keys[0].differences(keys[1]))
    shown = report(evaluated)
    assert "against one" in shown
    assert "against two" in shown


def test_a_reference_of_another_extractor_is_refused(tmp_path: Path) -> None:
    reference(tmp_path, "one", 1, TinyExtractor(version="old"))
    place = write_npz(tmp_path / "a.npz", random_images(40))
    with pytest.raises(UserError, match="version: old there, 1 here"):
        evaluate(Request(place, ("one",)), setting_of(tmp_path, TinyExtractor()))
    assert not list((tmp_path / "results").rglob("*.json"))


def test_inception_gives_all_of_its_numbers_and_says_that_few_images_are_biased(tmp_path: Path) -> None:
    extractor = TinyExtractor("inception-clean")
    reference(tmp_path, "one", 1, extractor)
    place = write_npz(tmp_path / "a.npz", random_images(40))
    record = evaluate(Request(place, ("one",)), setting_of(tmp_path, extractor)).record
    names = {m.name for m in record.measurements}
    assert names == {"fid", "sfid", "inception_score", "precision", "recall", "kid"}
    assert "biased upwards" in next(m for m in record.measurements if m.name == "fid").note
    assert not any("biased" in m.note for m in record.measurements if m.name == "kid")


def test_what_a_reference_does_not_hold_is_absent_and_said(tmp_path: Path) -> None:
    extractor = TinyExtractor()
    asked = Published(statistics_file(tmp_path / "j.npz"), "torch-fidelity", "jit", extractor="timm/tiny")
    import_statistics(asked, tmp_path / "references", lambda _: extractor)
    record = evaluate(
        Request(write_npz(tmp_path / "a.npz", random_images(40)), ("jit",)), setting_of(tmp_path, extractor)
    ).record
    assert {m.name for m in record.measurements} == {"fd_tiny"}
    assert "no kd_tiny against jit: needs reference and reference's features" in record.notes
    assert "declared" in record.measurements[0].note


def test_too_few_images_for_neighbours_are_said_to_be_too_few(tmp_path: Path) -> None:
    few = evaluate(Request(digits_file(tmp_path / "a.npz", 3)), setting_of(tmp_path)).record
    assert {"precision_digits", "recall_digits"}.isdisjoint(m.name for m in few.measurements)
    assert "no precision_digits against digits: needs more than 3 images" in few.notes
    assert "no recall_digits against digits: needs more than 3 images" in few.notes


def test_too_few_images_of_a_reference_are_said_to_be_too_few(tmp_path: Path) -> None:
    extractor = TinyExtractor("inception-clean")
    folder = write_folder(tmp_path / "x", random_images(20))
    build(Wanted(folder, "one", crop="none", features=3), extractor, tmp_path / "references")
    place = write_npz(tmp_path / "a.npz", random_images(40))
    record = evaluate(Request(place, ("one",)), setting_of(tmp_path, extractor)).record
    assert "no recall against one: needs more than 3 images whose features the reference holds" in record.notes


def test_a_killed_evaluation_goes_on_with_the_next_piece(tmp_path: Path) -> None:
    reference(tmp_path, "one", 1)
    place = write_npz(tmp_path / "a.npz", random_images(3 * CHUNK + 7, side=2))
    with pytest.raises(KilledError):
        evaluate(Request(place, ("one",)), setting_of(tmp_path, TinyExtractor(dies_at=2)))
    second = TinyExtractor()
    went_on = evaluate(Request(place, ("one",)), setting_of(tmp_path, second))
    elsewhere = Folders(tmp_path / "other", tmp_path / "others")
    at_once = evaluate_in(Request(place, ("one",)), elsewhere, setting_of(tmp_path, TinyExtractor()))
    assert second.calls == [CHUNK, 7]
    assert went_on.record.measurements == at_once.record.measurements


def test_a_second_evaluation_finds_the_first(tmp_path: Path) -> None:
    request = Request(digits_file(tmp_path / "a.npz"))
    first = evaluate(request, setting_of(tmp_path))
    second = evaluate(request, setting_of(tmp_path))
    assert (first.is_new, second.is_new) == (True, False)
    assert second.path == first.path
    assert "stored result" in report(second)
    third = evaluate(request, setting_of(tmp_path), again=True)
    assert third.is_new
    assert third.record.measurements == first.record.measurements
    assert evaluate(replace(request, declared=parse(["nfe=50"])), setting_of(tmp_path)).is_new


class _WeightsInFiles:
    """Opens tiny extractors whose weights are the bytes of a file."""

    def __call__(self, name: str, weights: str | None, _: torch.device) -> TinyExtractor:
        assert weights is not None
        extractor = TinyExtractor(name)
        extractor.identity = extractor.identity.model_copy(update={"weights_sha256": sha256_of(Path(weights))})
        return extractor


def test_an_evaluation_belongs_to_the_weights_and_not_to_where_they_lie(tmp_path: Path) -> None:
    opener = _WeightsInFiles()
    weights = tmp_path / "weights"
    weights.write_bytes(b"old")
    asked = Published(statistics_file(tmp_path / "j.npz"), "torch-fidelity", "jit", extractor="timm/tiny")
    import_statistics(asked, tmp_path / "references", lambda _: TinyExtractor())
    request = Request(write_npz(tmp_path / "a.npz", random_images(40)), ("jit",))
    setting = replace(setting_of(tmp_path), weights={"": str(weights)}, open_extractor=opener)
    first = evaluate(request, setting)
    moved = weights.rename(tmp_path / "moved")
    assert not evaluate(request, replace(setting, weights={"timm/tiny": str(moved)})).is_new
    weights.write_bytes(b"new")
    second = evaluate(request, setting)
    assert second.is_new
    of_each = [each.record.measurements[0].basis.extractor for each in (first, second)]  # type: ignore[union-attr]
    assert of_each[0] != of_each[1]


def test_a_stored_evaluation_that_is_damaged_is_named(tmp_path: Path) -> None:
    request = Request(digits_file(tmp_path / "a.npz", 20))
    path = evaluate(request, setting_of(tmp_path)).path
    path.write_text(path.read_text().replace('"images"', '"pictures"'))
    with pytest.raises(UserError, match="is not a valid record: images") as caught:
        evaluate(request, setting_of(tmp_path))
    assert "move it away" in caught.value.remedy


def test_a_stored_evaluation_of_another_identity_is_not_taken(tmp_path: Path) -> None:
    request = Request(digits_file(tmp_path / "a.npz", 20))
    first = evaluate(request, setting_of(tmp_path))
    told = first.record.model_copy(update={"evaluation_id": "0" * 12})
    first.path.write_text(told.model_dump_json())
    with pytest.raises(UserError, match="does not end in its evaluation_id"):
        evaluate(request, setting_of(tmp_path))


def test_all_extractors_are_opened_before_the_first_looks_at_an_image(tmp_path: Path) -> None:
    seeing = TinyExtractor("timm/seeing")
    for name in ("timm/seeing", "timm/missing"):
        reference(tmp_path, "one", 1, TinyExtractor(name))

    def opener(name: str, _weights: str | None, _device: torch.device) -> TinyExtractor:
        if name == "timm/missing":
            raise UserError("no weights here", "fetch them")
        return seeing

    place = write_npz(tmp_path / "a.npz", random_images(40))
    with pytest.raises(UserError, match="no weights here"):
        evaluate(
            Request(place, ("one.timm--seeing", "one.timm--missing")),
            replace(setting_of(tmp_path), open_extractor=opener),
        )
    assert seeing.calls == []


def test_the_code_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timm/a", "timm/b"):
        reference(tmp_path, "one", 1, TinyExtractor(name))
    collected = Mock(side_effect=provenance.collect)
    monkeypatch.setattr(provenance, "collect", collected)
    setting = replace(setting_of(tmp_path), open_extractor=lambda name, *_: TinyExtractor(name))
    evaluate(Request(write_npz(tmp_path / "a.npz", random_images(40)), ("one",)), setting)
    assert collected.call_count == 1


def test_two_at_once_make_one_record(tmp_path: Path) -> None:
    request = Request(digits_file(tmp_path / "a.npz"))
    with ThreadPoolExecutor(2) as workers:
        both = list(workers.map(lambda _: evaluate(request, setting_of(tmp_path)), range(2)))
    assert sorted(each.is_new for each in both) == [False, True]
    assert both[0].path == both[1].path


def test_images_in_another_order_give_the_same_distance_from_their_own_features(tmp_path: Path) -> None:
    pixels = digits().pixels(np.arange(600))
    values = []
    for name, chosen in (("a", pixels), ("b", pixels[::-1])):
        record = evaluate(Request(write_npz(tmp_path / f"{name}.npz", chosen)), setting_of(tmp_path)).record
        values.append(record.value("fd_digits"))
    assert values[0] == pytest.approx(values[1], abs=1e-9)


def test_images_sorted_by_class_are_shuffled_for_the_inception_score(tmp_path: Path) -> None:
    extractor = TinyExtractor("inception-clean")
    reference(tmp_path, "one", 1, extractor)
    folder = write_folder(tmp_path / "f", random_images(40), classes=4)
    record = evaluate(Request(folder, ("one",)), setting_of(tmp_path, extractor)).record
    assert "shuffled" in next(m for m in record.measurements if m.name == "inception_score").note


def test_what_nobody_said_stays_unknown_and_what_was_said_is_listed(tmp_path: Path) -> None:
    said = parse(["uint8_rule=round", "guidance=1.5@0.1-1.0,tuned", "nfe=50", "tf32=false"])
    record = evaluate(Request(digits_file(tmp_path / "a.npz"), declared=said), setting_of(tmp_path)).record
    assert (record.conditions.uint8_rule, record.conditions.weights) == ("round", "unknown")
    assert record.conditions.labels == "unknown", "174 to 183 of each class is not balanced"
    assert (record.circumstances.nfe, record.circumstances.tf32) == (50, False)
    assert record.declared == ("guidance=1.5@0.1-1.0,tuned", "nfe=50", "tf32=false", "uint8_rule=round")
    basis = record.measurements[0].basis
    assert basis is not None
    assert basis.guidance == GuidanceUsed(
        kind="classifier-free",
        scale=1.5,
        interval=(0.1, 1.0),
        channels="unknown",
        edges="unknown",
        chosen="tuned",
    )


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("labels", "says nothing"),
        ("labels=mostly", "labels=mostly"),
        ("lables=balanced", "no field to declare named 'lables'"),
        ("num_images=5", "seen in the images"),
        ("guidance=much", "no guidance"),
        ("guidance=1.5@0.5-3", "no guidance"),
        ("guidance=1.5@0.9-0.1", "no guidance"),
        ("guidance=1.0@0.9-0.1", "no guidance"),
        ("guidance=1.5.2", "no guidance"),
        ("nfe=0", "nfe=0"),
    ],
)
def test_nonsense_cannot_be_declared(word: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        parse([word])


@pytest.mark.parametrize("said", ["none", "1", "1.0", "1.0,untuned", "1,tuned", "1.0@0.2-0.8"])
def test_guidance_that_changes_nothing_is_none_as_it_is_of_a_run(said: str) -> None:
    assert parse([f"guidance={said}"]).guidance == UNGUIDED


@pytest.mark.parametrize(
    ("labels", "expected", "said"),
    [
        ([0] * 40, None, "unknown"),
        ([0] * 40, 1, "unknown"),
        ([0, 1] * 20, None, "unknown"),
        ([0, 1] * 20, 2, "balanced"),
    ],
    ids=["one class", "one class that is expected", "classes nobody confirmed", "classes that are expected"],
)
def test_labels_are_balanced_where_as_many_classes_as_expected_are_even(
    tmp_path: Path, labels: list[int], expected: int | None, said: str
) -> None:
    place = write_npz(tmp_path / "a.npz", digits().pixels(np.arange(40)), labels=np.array(labels))
    request = Request(place, expected=Expected(classes=expected))
    assert evaluate(request, setting_of(tmp_path)).record.conditions.labels == said
    declared = replace(request, declared=parse(["labels=balanced"]))
    assert evaluate(declared, setting_of(tmp_path)).record.conditions.labels == "balanced"


def test_folders_of_shards_do_not_contradict_what_is_declared(tmp_path: Path) -> None:
    reference(tmp_path, "one", 1)
    folder = write_folder(tmp_path / "f", random_images(41), classes=2)
    request = Request(folder, ("one",), declared=parse(["labels=balanced"]))
    assert evaluate(request, setting_of(tmp_path, TinyExtractor())).record.conditions.labels == "balanced"
    with pytest.raises(UserError, match="holds 20 to 21 of a class"):
        evaluate(replace(request, expected=Expected(classes=2)), setting_of(tmp_path, TinyExtractor()))


def test_labels_that_are_seen_to_be_uneven_cannot_be_declared_balanced(tmp_path: Path) -> None:
    place = digits_file(tmp_path / "a.npz")
    with pytest.raises(UserError, match="labels=balanced was declared"):
        evaluate(Request(place, declared=parse(["labels=balanced"])), setting_of(tmp_path))


def test_images_without_a_reference_are_asked_for_one(tmp_path: Path) -> None:
    reference(tmp_path, "one", 1)
    with pytest.raises(UserError, match="holds one") as caught:
        evaluate(Request(write_npz(tmp_path / "a.npz", random_images(4))), setting_of(tmp_path))
    assert "refs build" in caught.value.remedy


def test_fewer_images_than_expected_are_refused_before_anything_is_extracted(tmp_path: Path) -> None:
    extractor = TinyExtractor("digits")
    with pytest.raises(UserError, match="50,000 are expected"):
        evaluate(Request(digits_file(tmp_path / "a.npz"), expected=Expected(50_000)), setting_of(tmp_path, extractor))
    assert extractor.calls == []


def test_a_run_is_evaluated_with_all_that_its_record_says(tmp_path: Path) -> None:
    outcome = run(quick_config(tmp_path))
    record = evaluate(Request(None, run_id=outcome.record.run_id), setting_of(tmp_path)).record
    assert record.run_id == outcome.record.run_id
    assert record.conditions == outcome.record.conditions
    assert record.circumstances == outcome.record.circumstances
    for name in ("fd_digits", "digits_accuracy"):
        assert record.value(name) == pytest.approx(outcome.record.value(name), abs=1e-9)
        mine, theirs = (next(m for m in r.measurements if m.name == name) for r in (record, outcome.record))
        assert record.key(mine).differences(outcome.record.key(theirs)) == []
    with pytest.raises(UserError, match="no finished run"):
        evaluate(Request(None, run_id="0" * 12), setting_of(tmp_path))


def test_a_runs_own_samples_are_scored_even_where_they_are_odd(tmp_path: Path) -> None:
    place = write_npz(tmp_path / "a.npz", np.zeros((30, 1, 8, 8), np.uint8), labels=np.arange(30) % 10)
    scores = score_run(place, ("digits",), UNGUIDED, setting_of(tmp_path), tmp_path / "features")
    assert {m.name for m in scores.measurements} == {d.name for d in definitions_of("digits")}
    assert any("29 of 30 images equal" in note for note in scores.notes)


def test_every_number_has_one_meaning() -> None:
    names = [definition.name for definition in all_definitions()]
    assert len(names) == len(set(names))
