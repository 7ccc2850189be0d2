"""A reference says what it is, stays what it is, and is never used for features of another kind."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness import references
from harness.comparability import UNKNOWN
from harness.errors import UserError
from harness.image_sets import image_digests, set_digest
from harness.metrics.moments import moments
from harness.reference_building import Wanted, build
from harness.reference_import import INCEPTION_SPATIAL_WIDTH, INCEPTION_WIDTH, Kind, Published, import_statistics
from harness.stored_images import CHUNK
from tests.builders import image_folder
from tests.test_image_sets import random_images, write_folder, write_npz
from tests.tiny_extractor import KilledError, TinyExtractor


def wanted(folder: Path, **changes: object) -> Wanted:
    return replace(Wanted(folder, "real", split="train", crop="none"), **changes)  # type: ignore[arg-type]


def no_weights(_name: str) -> TinyExtractor:
    raise UserError("no weights here", "fetch them")


def test_a_built_reference_holds_the_moments_of_all_and_the_features_of_some(tmp_path: Path) -> None:
    pixels = random_images(30)
    extractor = TinyExtractor()
    built = build(wanted(write_folder(tmp_path / "x", pixels), features=10), extractor, tmp_path)
    (manifest,) = references.find(tmp_path, "real")
    arrays = references.load(tmp_path, manifest)
    features = extractor.extract(pixels)
    assert manifest == built
    assert manifest.reference.model_dump() == {
        "name": "real",
        "sha256": set_digest(image_digests(pixels)),
        "split": "train",
        "num_images": 30,
        "crop": "none",
    }
    assert np.array_equal(arrays.covariance, moments(features.pooled).covariance)
    assert features.spatial is not None
    assert np.array_equal(arrays.spatial_mean, moments(features.spatial).mean)  # type: ignore[arg-type]
    assert arrays.features is not None
    assert len(arrays.features) == manifest.num_features == 10
    assert np.array_equal(arrays.features[[0, -1]], features.pooled[[0, -1]])


def test_images_are_cropped_as_adm_does(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "x", size=(40, 50))
    manifest = build(wanted(folder, crop="adm", size=16, limit=7), TinyExtractor(), tmp_path)
    assert (manifest.reference.crop, manifest.reference.num_images) == ("adm 16x16", 7)


def test_an_interrupted_building_goes_on_and_ends_in_the_same_reference(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", random_images(4 * CHUNK, side=2))
    with pytest.raises(KilledError):
        build(wanted(folder), TinyExtractor(dies_at=3), tmp_path / "a", between=CHUNK)
    second = TinyExtractor()
    went_on = build(wanted(folder), second, tmp_path / "a", between=CHUNK)
    at_once = build(wanted(folder), TinyExtractor(), tmp_path / "b")
    assert second.calls == [CHUNK], "three of four pieces were kept"
    assert went_on.files == at_once.files
    assert not list((tmp_path / "a").glob(".building/*")), "nothing is left over"


@pytest.mark.parametrize("damage", ["rubbish", "cut", "one array", "nothing", "other arrays"])
def test_a_damaged_half_of_a_building_is_named_and_can_be_deleted(tmp_path: Path, damage: str) -> None:
    folder = write_folder(tmp_path / "x", random_images(3 * CHUNK, side=2))
    with pytest.raises(KilledError):
        build(wanted(folder), TinyExtractor(dies_at=2), tmp_path / "a", between=CHUNK)
    (state,) = (tmp_path / "a").glob(".building/*/state.npz")
    with state.open("r+b") as file:
        match damage:
            case "rubbish":
                file.write(b"PK" + bytes(100))
                file.truncate(102)
            case "cut":
                file.truncate(state.stat().st_size // 2)
            case "nothing":
                file.truncate(0)
            case "one array":
                np.save(file, np.eye(2))
                file.truncate()
            case _:
                np.savez(file, pooled=np.eye(2))
                file.truncate()
    with pytest.raises(UserError, match=r"state\.npz is damaged") as caught:
        build(wanted(folder), TinyExtractor(), tmp_path / "a", between=CHUNK)
    assert "delete it" in caught.value.remedy
    state.unlink()
    assert build(wanted(folder), TinyExtractor(), tmp_path / "a").reference.num_images == 3 * CHUNK


def test_a_name_is_given_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", random_images(5))
    build(wanted(folder), TinyExtractor(), tmp_path)
    with pytest.raises(UserError, match="never overwritten"):
        build(wanted(folder), TinyExtractor(), tmp_path)
    build(wanted(folder), TinyExtractor("timm/other"), tmp_path)
    assert len(references.find(tmp_path, "real")) == 2
    assert len(references.find(tmp_path, "real.timm--other")) == 1


@pytest.mark.parametrize("name", ["digits", "a/b", "a.b", ""])
def test_a_name_can_be_a_file_and_is_not_the_built_in_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be called"):
        references.require_free(tmp_path, name, "timm/tiny")


@pytest.mark.parametrize("ending", [".npz", ".features.npy"])
def test_a_tampered_file_is_found_by_verify_and_refused_by_load(tmp_path: Path, ending: str) -> None:
    manifest = build(wanted(write_folder(tmp_path / "x", random_images(9))), TinyExtractor(), tmp_path)
    assert [each.problem for each in references.verify(tmp_path, None)] == [""]
    file = tmp_path / f"{manifest.stem}{ending}"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert "has changed" in references.verify(tmp_path, "real")[0].problem
    with pytest.raises(UserError, match="not what it was"):
        references.load(tmp_path, manifest)
    file.unlink()
    assert "is missing" in references.verify(tmp_path, "real")[0].problem


@pytest.mark.parametrize(("field", "value"), [("name", "other"), ("version", "2"), ("weights_sha256", "cd" * 32)])
def test_another_extractor_is_refused_and_what_differs_is_said(tmp_path: Path, field: str, value: str) -> None:
    manifest = build(wanted(write_folder(tmp_path / "x", random_images(9))), TinyExtractor(), tmp_path)
    identity = TinyExtractor().identity
    references.require_same_extractor(manifest, identity)
    with pytest.raises(UserError, match=f"{field.replace('_', ' ')}: .* there, {value} here"):
        references.require_same_extractor(manifest, identity.model_copy(update={field: value}))


def test_an_unknown_reference_names_the_near_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refs build"):
        references.find(tmp_path, "real")
    build(wanted(write_folder(tmp_path / "x", random_images(9))), TinyExtractor(), tmp_path)
    with pytest.raises(UserError, match="did you mean real"):
        references.find(tmp_path, "rael")


def statistics_file(path: Path, **more: object) -> Path:
    """Of nine features, as the tiny extractor's."""
    found = moments(np.random.default_rng(0).normal(size=(50, 9)))
    np.savez(path, mu=found.mean, sigma=found.covariance, **more)  # type: ignore[arg-type]
    return path


def published(file: Path, kind: Kind, name: str = "x") -> Published:
    return Published(file, kind, name, extractor="timm/tiny")


def test_adm_statistics_are_taken_as_they_are_and_images_give_only_features(tmp_path: Path) -> None:
    pixels = random_images(12)
    file = statistics_file(tmp_path / "V.npz", arr_0=pixels.transpose(0, 2, 3, 1), mu_s=np.ones(5), sigma_s=np.eye(5))
    asked = Published(file, "adm", "virtual", "train", "timm/tiny")
    manifest = import_statistics(asked, tmp_path, TinyExtractor)
    arrays = references.load(tmp_path, manifest)
    with np.load(file) as held:
        assert np.array_equal(arrays.mean, held["mu"])
        assert np.array_equal(arrays.covariance, (held["sigma"] + held["sigma"].T) / 2)
    assert np.array_equal(arrays.features, TinyExtractor().extract(pixels).pooled)  # type: ignore[arg-type]
    assert (manifest.reference.num_images, manifest.num_features, manifest.spatial_width) == (None, 12, 5)
    assert any("declared" in note for note in manifest.notes)


def test_without_weights_an_import_says_what_is_missing(tmp_path: Path) -> None:
    file = statistics_file(tmp_path / "V.npz", arr_0=np.zeros((3, 4, 4, 3), np.uint8))
    manifest = import_statistics(published(file, "adm"), tmp_path, no_weights)
    assert manifest.num_features == 0
    assert any("no precision" in note for note in manifest.notes)
    assert manifest.extractor.weights_sha256 == UNKNOWN


def test_what_was_never_declared_is_not_compared(tmp_path: Path) -> None:
    file = statistics_file(tmp_path / "j.npz")
    manifest = import_statistics(published(file, "torch-fidelity"), tmp_path, no_weights)
    references.require_same_extractor(manifest, TinyExtractor().identity)
    with pytest.raises(UserError, match="another extractor"):
        references.require_same_extractor(manifest, TinyExtractor("timm/other").identity)


def test_an_imported_reference_is_its_statistics_whatever_the_file(tmp_path: Path) -> None:
    one = published(statistics_file(tmp_path / "a.npz"), "torch-fidelity", "one")
    two = published(statistics_file(tmp_path / "b.npz", further=np.ones(3)), "torch-fidelity", "two")
    digests = {import_statistics(each, tmp_path, no_weights).reference.sha256 for each in (one, two)}
    assert len(digests) == 1


def test_clean_fid_statistics_come_with_features_beside_them(tmp_path: Path) -> None:
    file = statistics_file(tmp_path / "s.npz")
    np.savez(tmp_path / "s_kid.npz", feats=np.ones((20, 9), np.float32))
    manifest = import_statistics(published(file, "clean-fid"), tmp_path, no_weights)
    assert (manifest.num_features, manifest.reference.num_images) == (20, 20)


@pytest.mark.parametrize(
    "held",
    [
        {"arr_0": np.zeros((2, 4, 4, 3), np.uint8)},
        {"mu": np.zeros(3), "sigma": np.eye(4)},
        {"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])},
        {"mu": np.array([0, np.nan]), "sigma": np.eye(2)},
        {"mu": np.array([{}], dtype=object), "sigma": np.eye(1)},
        {"mu": np.array(["0", "a"]), "sigma": np.eye(2)},
        {"mu": np.zeros(1), "sigma": np.array([["a"]])},
        {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
        {"mu": np.zeros(2), "sigma": np.eye(2) + 1j},
        {"mu": np.zeros(2), "sigma": np.eye(2, dtype=bool)},
        {"mu": np.zeros(2), "sigma": np.ones(2)},
        {"feats": np.ones(7)},
        {"feats": np.ones((3, 2, 2))},
        {"feats": np.full((3, 2), np.inf)},
        {"mu": np.zeros(2), "sigma": np.eye(2), "feats": np.ones(2)},
        {"mu": np.zeros(2), "sigma": np.eye(2), "feats": np.ones((5, 3))},
        {"mu": np.zeros(2), "sigma": np.eye(2), "mu_s": np.array(["a"]), "sigma_s": np.eye(1)},
    ],
    ids=[
        "no statistics",
        "other widths",
        "not symmetric",
        "not finite",
        "pickled",
        "a mean of words",
        "a covariance of words",
        "empty",
        "complex",
        "truth values",
        "no square",
        "features of one dimension",
        "features of three dimensions",
        "features that are not finite",
        "moments with features of one dimension",
        "moments with features of another width",
        "a spatial mean of words",
    ],
)
@pytest.mark.filterwarnings("error")
def test_impossible_statistics_are_refused(tmp_path: Path, held: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "a.npz", **held)  # type: ignore[arg-type]
    with pytest.raises(UserError):
        import_statistics(published(tmp_path / "a.npz", "clean-fid"), tmp_path, no_weights)
    assert references.list_references(tmp_path) == []


def test_one_array_is_no_file_of_statistics(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(3))
    with pytest.raises(UserError, match=r"no \.npz of plain numbers"):
        import_statistics(published(tmp_path / "x.npy", "torch-fidelity"), tmp_path, no_weights)


def test_statistics_of_an_extractor_that_nobody_knows_are_not_kept(tmp_path: Path) -> None:
    asked = Published(statistics_file(tmp_path / "a.npz"), "torch-fidelity", "x", extractor="inception-cleen")
    with pytest.raises(UserError, match="did you mean inception-clean"):
        import_statistics(asked, tmp_path, no_weights)
    assert references.list_references(tmp_path) == []


@pytest.mark.parametrize(("width", "spatial"), [(9, 0), (INCEPTION_WIDTH, 5)], ids=["pooled", "spatial"])
def test_statistics_that_no_inception_gives_are_refused(tmp_path: Path, width: int, spatial: int) -> None:
    held = {"mu": np.zeros(width), "sigma": np.eye(width)}
    held |= {"mu_s": np.zeros(spatial), "sigma_s": np.eye(spatial)} if spatial else {}
    np.savez(tmp_path / "a.npz", **held)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="inception-legacy-tensorflow sees 2048"):
        import_statistics(Published(tmp_path / "a.npz", "adm", "x"), tmp_path, no_weights)
    assert references.list_references(tmp_path) == []


def test_statistics_as_wide_as_inceptions_features_are_kept(tmp_path: Path) -> None:
    pooled = {"mu": np.zeros(INCEPTION_WIDTH), "sigma": np.eye(INCEPTION_WIDTH)}
    spatial = {"mu_s": np.zeros(INCEPTION_SPATIAL_WIDTH), "sigma_s": np.eye(INCEPTION_SPATIAL_WIDTH)}
    np.savez(tmp_path / "a.npz", **pooled, **spatial)  # type: ignore[arg-type]
    manifest = import_statistics(Published(tmp_path / "a.npz", "adm", "x"), tmp_path, no_weights)
    assert (manifest.width, manifest.spatial_width) == (2048, 2023)


def test_a_cut_download_is_refused(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "a.npz", random_images(3))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match="damaged"):
        import_statistics(published(file, "adm"), tmp_path, no_weights)
