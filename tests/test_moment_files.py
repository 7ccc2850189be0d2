"""What a run was judged by is kept as moments: anybody can compute its distances again, and trusts no file blindly."""

import json
import os
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from harness import workspace
from harness.attachments import LONGEST_HEADER, attachment_of, read_tensors
from harness.comparability import UNGUIDED, Basis, ExtractorIdentity, ReferenceIdentity
from harness.digits_judge import EXTRACTOR
from harness.errors import UserError
from harness.metric_definitions import SQUARED
from harness.metrics.frechet import frechet_distance
from harness.metrics.moments import Moments, moments
from harness.moment_files import Described, FeatureKind, JudgedMoments, read_moments, write_moments
from harness.recomputing import KINDS, recompute
from harness.records import Measurement, RunRecord
from harness.references import Arrays, ReferenceManifest, keep
from harness.run import Outcome, run
from harness.spec import RunConfig
from tests.builders import quick_config

torch.set_num_threads(1)

NO_REFERENCES = Path("no-references")


def _file(config: RunConfig) -> Path:
    return workspace.of(config).moments


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """A guided run, whose images were judged with guidance and without, and its moments."""
    config = quick_config(tmp_path_factory.mktemp("runs"), "sit", "none", "protocol.guidance.scale=2.0")
    return run(config), _file(config)


def test_every_distance_is_recomputed_from_the_file(guided: tuple[Outcome, Path]) -> None:
    outcome, file = guided
    found = recompute(outcome.record, file, NO_REFERENCES)
    assert found.unavailable == []
    distances = [m for m in outcome.record.measurements if m.name == "fd_digits"]
    assert [measurement for measurement, _ in found.values] == distances
    assert {m.basis.guidance.kind for m in distances if m.basis} == {"none", "classifier-free"}
    for measurement, value in found.values:
        assert value == pytest.approx(measurement.value, rel=1e-9)


def test_the_file_says_whose_moments_it_holds(guided: tuple[Outcome, Path]) -> None:
    outcome, file = guided
    assert outcome.record.moments is not None
    held = read_moments(file, outcome.record.moments)
    assert [(each.described.extractor, each.described.kind, each.moments.count) for each in held] == [
        (EXTRACTOR, "pooled", 30),
        (EXTRACTOR, "pooled", 30),
    ]
    assert [each.described.guidance.kind for each in held] == ["classifier-free", "none"]


def test_moments_come_back_bit_for_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    wide, narrow = moments(random.normal(size=(40, 70))), moments(random.normal(size=(90, 3)))
    given = [_judged(wide, "pooled"), _judged(narrow, "spatial")]
    kept = write_moments(tmp_path / "moments.safetensors", given)
    assert kept is not None
    again = read_moments(tmp_path / "moments.safetensors", kept)
    for one, other in zip(given, again, strict=True):
        assert one.described == other.described
        assert one.moments.equals(other.moments)
    assert write_moments(tmp_path / "again.safetensors", given) == kept
    assert write_moments(tmp_path / "none.safetensors", []) is None
    assert not (tmp_path / "none.safetensors").exists()


def _judged(given: Any, kind: Any) -> JudgedMoments:
    described = Described(extractor=EXTRACTOR, kind=kind, guidance=UNGUIDED, count=given.count)
    return JudgedMoments(described, given)


def test_an_interrupted_judging_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = (quick_config(tmp_path / name, "sit", "dsr", "protocol.guidance.scale=2.0") for name in "ab")
    first = run(whole).record

    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("harness.generation.write_moments", stops)
        with pytest.raises(KeyboardInterrupt):
            run(broken)
    assert not _file(broken).exists()
    second = run(broken).record
    assert first.moments == second.moments
    assert first.norm_maps == second.norm_maps
    assert _file(whole).read_bytes() == _file(broken).read_bytes()


def test_what_cannot_be_computed_again_is_said(guided: tuple[Outcome, Path], tmp_path: Path) -> None:
    outcome, file = guided

    def changed(**basis: Any) -> RunRecord:
        measurements = [
            m.model_copy(update={"basis": m.basis.model_copy(update=basis)}) if m.name == "fd_digits" and m.basis else m
            for m in outcome.record.measurements
        ]
        return outcome.record.model_copy(update={"measurements": tuple(measurements)})

    basis = next(m.basis for m in outcome.record.measurements if m.name == "fd_digits")
    assert basis is not None
    assert basis.reference is not None
    elsewhere = basis.reference.model_copy(update={"name": "mine", "sha256": "0" * 64})
    for record, words in (
        (changed(reference=elsewhere), "the reference mine is not in no-references"),
        (changed(version=7), "other arithmetic"),
    ):
        found = recompute(record, file, NO_REFERENCES)
        assert found.values == []
        assert all(words in each for each in found.unavailable)
        assert len(found.unavailable) == 2
    renamed = changed(reference=basis.reference.model_copy(update={"name": "another-name"}))
    assert len(recompute(renamed, file, NO_REFERENCES).values) == 2, "what a reference is called is no part of it"


def test_distances_from_a_built_reference_are_computed_again(guided: tuple[Outcome, Path], tmp_path: Path) -> None:
    """FID and sFID, of an extractor that is not here: only its features' moments are needed."""
    random = np.random.default_rng(0)
    extractor = ExtractorIdentity(name="inception-clean", version="1", weights_sha256="1" * 64)
    theirs, spatial = (moments(random.normal(1, 2, size=(400, width))) for width in (20, 12))
    arrays = Arrays(theirs.mean, theirs.covariance, spatial.mean, spatial.covariance)
    reference = ReferenceIdentity(name="mine", sha256="2" * 64, num_images=400)
    keep(tmp_path / "references", _manifest(reference, extractor), arrays)
    ours: dict[FeatureKind, Moments] = {
        "pooled": moments(random.normal(size=(30, 20))),
        "spatial": moments(random.normal(size=(30, 12))),
    }
    described = {
        kind: Described(extractor=extractor, kind=kind, guidance=UNGUIDED, count=30) for kind in KINDS.values()
    }
    file = tmp_path / "moments.safetensors"
    attached = write_moments(file, [JudgedMoments(described[kind], given) for kind, given in ours.items()])
    basis = Basis(extractor=extractor, reference=reference)
    wanted = {"fid": frechet_distance(ours["pooled"], theirs), "sfid": frechet_distance(ours["spatial"], spatial)}
    measurements = [
        Measurement(name=name, value=value, unit=SQUARED, better="lower", num_images=30, basis=basis)
        for name, value in wanted.items()
    ]
    record = guided[0].record.model_copy(update={"measurements": tuple(measurements), "moments": attached})
    found = recompute(record, file, tmp_path / "references")
    assert {measurement.name: value for measurement, value in found.values} == pytest.approx(wanted, rel=1e-9)
    (tmp_path / "references" / "mine.inception-clean.npz").write_bytes(b"damaged")
    damaged = recompute(record, file, tmp_path / "references")
    assert damaged.values == []
    assert all("is not what it was" in each for each in damaged.unavailable)


def _manifest(reference: ReferenceIdentity, extractor: ExtractorIdentity) -> ReferenceManifest:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return ReferenceManifest(
        reference=reference, extractor=extractor, kind="built", width=20, source="here", created=now, versions={}
    )


Change = Callable[[dict[str, Any], list[dict[str, Any]]], None]


def _put(name: str, index: Any, value: Any) -> Change:
    def change(arrays: dict[str, Any], _: list[dict[str, Any]]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][index] = value

    return change


def _as(name: str, made: Callable[[Any], Any]) -> Change:
    def change(arrays: dict[str, Any], _: list[dict[str, Any]]) -> None:
        arrays[name] = made(arrays[name])

    return change


def _say(**fields: Any) -> Change:
    return lambda _, said: said[0].update(fields)


FORGED: Mapping[str, tuple[Change, str]] = {
    "a number that is none": (_put("0.mean", 3, np.nan), "not finite"),
    "an infinite one": (_put("0.covariance", 3, -np.inf), "not finite"),
    "a negative variance": (_put("0.covariance", 0, -1e3), "negative variances"),
    "a covariance larger than its variances": (_put("0.covariance", 1, 1e6), "negative variances"),
    "float32": (_as("0.mean", lambda mean: mean.astype(np.float32)), "not float64"),
    "whole numbers": (_as("0.covariance", lambda packed: packed.astype(np.int64)), "not float64"),
    "a full matrix": (_as("0.covariance", lambda packed: packed.reshape(1, -1)), "shapes"),
    "fewer covariances": (_as("0.covariance", lambda packed: packed[:-1]), "shapes"),
    "nothing": (_as("0.mean", lambda mean: mean[:0]), "shapes"),
    "fewer tensors": (lambda arrays, _: arrays.pop("0.mean"), "tensors"),
    "more tensors": (lambda arrays, _: arrays.update(code=np.zeros(3)), "tensors"),
    "other images": (_say(count=31), "of 31 images"),
    "one extractor twice": (lambda _, said: said[1].update(said[0]), "twice"),
    "another extractor": (_say(extractor={**EXTRACTOR.model_dump(), "name": "dinov2-l"}), "no distance of the record"),
    "another kind": (_say(kind="spatial"), "no distance of the record"),
    "an unknown field": (_say(note="x"), "metadata"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_refused(name: str, guided: tuple[Outcome, Path], tmp_path: Path) -> None:
    change, words = FORGED[name]
    outcome, file = guided
    assert outcome.record.moments is not None
    tensors = read_tensors(file, outcome.record.moments)
    arrays, said = dict(tensors.arrays), json.loads(tensors.metadata["moments"])
    change(arrays, said)
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"moments": json.dumps(said)})
    _assert_refused(outcome.record, content, words, tmp_path)


def _assert_refused(record: RunRecord, content: bytes, words: str, place: Path) -> None:
    """Refused though the record names this very file."""
    (place / "forged.safetensors").write_bytes(content)
    forged = record.model_copy(update={"moments": attachment_of(content)})
    with pytest.raises(UserError, match=words) as told:
        recompute(forged, place / "forged.safetensors", NO_REFERENCES)
    assert "\n" not in told.value.problem


BROKEN: Mapping[str, tuple[Callable[[bytes], bytes], str]] = {
    "a header as long as memory": (lambda whole: struct.pack("<Q", 2**62) + whole[8:], "header is too long"),
    "a header too long to read": (
        lambda whole: struct.pack("<Q", LONGEST_HEADER + 1) + b" " * LONGEST_HEADER + whole,
        "header is too long",
    ),
    "a pickle": (lambda whole: b"\x80\x04\x95" + whole, "header is too long|damaged"),
    "half of it": (lambda whole: whole[: len(whole) // 2], "damaged"),
    "bytes after its end": (lambda whole: whole + b"#!/bin/sh", "damaged"),
    "three bytes": (lambda whole: whole[:3], "too long|damaged"),
    "an endless nesting": (lambda whole: struct.pack("<Q", 40_000) + b"[" * 40_000, "damaged"),
    "no metadata": (lambda whole: save(dict(load(whole))), "metadata"),
    "a metadata that is no JSON": (lambda whole: save(dict(load(whole)), {"moments": "{"}), "metadata"),
    "two entries": (lambda whole: save(dict(load(whole)), {"moments": "[]", "more": ""}), "metadata"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused(name: str, guided: tuple[Outcome, Path], tmp_path: Path) -> None:
    outcome, file = guided
    break_, words = BROKEN[name]
    _assert_refused(outcome.record, break_(file.read_bytes()), words, tmp_path)


def test_a_file_that_is_not_the_records_is_refused(guided: tuple[Outcome, Path], tmp_path: Path) -> None:
    outcome, file = guided
    other = tmp_path / "other.safetensors"
    other.write_bytes(file.read_bytes()[:-1] + b"\x01")
    (tmp_path / "link.safetensors").symlink_to(file)
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name, words in (
        ("other", "SHA-256"),
        ("link", "no ordinary file"),
        ("pipe", "no ordinary file"),
        ("absent", "missing"),
    ):
        with pytest.raises(UserError, match=words):
            recompute(outcome.record, tmp_path / f"{name}.safetensors", NO_REFERENCES)
    plain = outcome.record.model_copy(update={"moments": None})
    with pytest.raises(UserError, match="names no moments"):
        recompute(plain, file, NO_REFERENCES)


def test_features_that_do_not_fill_their_space_are_no_forgery(tmp_path: Path) -> None:
    """Twenty images in the eyes of a wide extractor, and images that are all the same."""
    features = np.random.default_rng(0).normal(size=(20, 500)).astype(np.float32) * 1e3
    for given in (moments(features), moments(np.ones((5, 7)))):
        kept = write_moments(tmp_path / "moments.safetensors", [_judged(given, "pooled")])
        assert kept is not None
        assert read_moments(tmp_path / "moments.safetensors", kept)[0].moments.equals(given)
