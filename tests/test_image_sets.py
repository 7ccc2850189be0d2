"""Images from anywhere are read as they are, looked through, and refused where nobody could mean them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data import digits
from harness.digits_judge import REFERENCE
from harness.errors import UserError
from harness.image_sets import Expected, Survey, image_digests, open_images, require_plausible, set_digest, survey
from harness.images import Pixels


def random_images(count: int, side: int = 6, channels: int = 3, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def write_folder(root: Path, pixels_NCHW: Pixels, classes: int = 1) -> Path:
    for index, image in enumerate(pixels_NCHW):
        folder = root / f"c{index % classes}" if classes > 1 else root
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image.transpose(1, 2, 0).squeeze())
        picture.save(folder / f"{index}.png")
    return root


def write_npz(path: Path, pixels_NCHW: Pixels, *, compressed: bool = False, **more: object) -> Path:
    save = np.savez_compressed if compressed else np.savez
    save(path, pixels_NCHW.transpose(0, 2, 3, 1), **more)  # type: ignore[arg-type]
    return path


def look(place: Path, expected: Expected = Expected()) -> Survey:  # noqa: B008
    with open_images(place) as stored:
        return require_plausible(survey(stored), expected)


def problem_of(place: Path, expected: Expected = Expected()) -> str:  # noqa: B008
    with pytest.raises(UserError) as caught:
        look(place, expected)
    return caught.value.problem


@pytest.mark.parametrize("kind", ["folder", "npz", "compressed", "npy", "grey npz"])
def test_every_kind_gives_the_same_pixels_in_order(tmp_path: Path, kind: str) -> None:
    pixels = random_images(12, channels=1 if kind == "grey npz" else 3)
    place = tmp_path / "images"
    match kind:
        case "folder":
            write_folder(place, pixels)
        case "npy":
            place = place.with_suffix(".npy")
            np.save(place, pixels.transpose(0, 2, 3, 1))
        case "grey npz":
            place = place.with_suffix(".npz")
            np.savez(place, pixels[:, 0])
        case _:
            place = write_npz(place.with_suffix(".npz"), pixels, compressed=kind == "compressed")
    with open_images(place) as stored:
        assert (stored.num_images, stored.shape) == (12, pixels.shape[1:])
        assert np.array_equal(stored.read(0, 5), pixels[:5])
        assert np.array_equal(stored.read(5, 12), pixels[5:])
        assert np.array_equal(stored.read(3, 4), pixels[3:4]), "reading back"
        assert survey(stored).images.sha256 == set_digest(image_digests(pixels))


def test_the_digest_does_not_depend_on_order_and_changes_with_a_pixel() -> None:
    pixels = random_images(9)
    changed = pixels.copy()
    changed[4, 0, 0, 0] ^= 1
    assert set_digest(image_digests(pixels)) == set_digest(image_digests(pixels[::-1]))
    assert set_digest(image_digests(pixels)) != set_digest(image_digests(changed))


def test_the_digits_are_those_that_the_built_in_reference_names() -> None:
    assert set_digest(image_digests(digits().pixels(np.arange(1797)))) == REFERENCE.sha256


def test_folders_of_the_first_level_are_classes(tmp_path: Path) -> None:
    found = look(write_folder(tmp_path / "a", random_images(12), classes=3))
    assert found.images.class_counts == (4, 4, 4)
    assert found.is_balanced is None, "folders need not be classes"
    assert look(tmp_path / "a", Expected(classes=3)).is_balanced
    assert look(write_folder(tmp_path / "b", random_images(12))).images.class_counts is None


def test_labels_of_an_array_file_are_classes(tmp_path: Path) -> None:
    pixels = random_images(4)
    even = write_npz(tmp_path / "a.npz", pixels, labels=np.array([0, 1, 0, 1]))
    assert look(even, Expected(classes=2)).is_balanced
    uneven = look(write_npz(tmp_path / "b.npz", pixels, arr_1=np.array([0, 1, 0, 0])))
    assert uneven.is_balanced is False
    assert any("not balanced: 1 to 3" in note for note in uneven.notes)


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [0, 0, 0, 0]], ids=["two of perhaps many", "one"])
def test_classes_that_nobody_confirmed_are_not_seen_to_be_balanced(tmp_path: Path, labels: list[int]) -> None:
    assert look(write_npz(tmp_path / "a.npz", random_images(4), labels=np.array(labels))).is_balanced is None


def test_one_class_is_never_balanced(tmp_path: Path) -> None:
    place = write_npz(tmp_path / "a.npz", random_images(4), labels=np.zeros(4, int))
    assert look(place, Expected(classes=1)).is_balanced is None


def test_a_number_that_no_image_has_is_no_class_where_the_classes_are_complete(tmp_path: Path) -> None:
    place = write_npz(tmp_path / "a.npz", random_images(4), labels=np.array([1, 2, 1, 2]))
    assert look(place).is_balanced is False
    found = look(place, Expected(classes=2))
    assert found.is_balanced
    assert found.notes == ()


def test_folders_of_different_size_are_not_called_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, random_images(5), classes=2)
    found = look(tmp_path)
    assert found.is_balanced is None
    assert any("2 folders of 2 to 3 images each are not taken for classes" in note for note in found.notes)
    assert look(tmp_path, Expected(classes=2)).is_balanced is False


def test_duplicates_are_counted_and_said(tmp_path: Path) -> None:
    pixels = random_images(6)
    pixels[3] = pixels[5] = pixels[0]
    found = look(write_npz(tmp_path / "a.npz", pixels))
    assert found.images.duplicates == 2
    assert any("2 of 6 images equal" in note for note in found.notes)


def test_jpeg_is_read_with_a_warning(tmp_path: Path) -> None:
    write_folder(tmp_path, random_images(2))
    Image.fromarray(random_images(1)[0].transpose(1, 2, 0)).save(tmp_path / "9.jpg")
    assert any("1 of 3 images are JPEG" in note for note in look(tmp_path).notes)


def test_images_of_other_sizes_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, random_images(5))
    Image.new("RGB", (7, 6)).save(tmp_path / "odd.png")
    Image.new("L", (6, 6)).save(tmp_path / "grey.png")
    problem = problem_of(tmp_path)
    assert "5 of 6 x 6 RGB" in problem
    assert "odd.png" in problem
    assert "grey.png" in problem


def test_transparency_is_not_decided_here(tmp_path: Path) -> None:
    Image.new("RGBA", (6, 6)).save(tmp_path / "0.png")
    assert "RGBA" in problem_of(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_a_corrupt_file_is_named_and_never_skipped(tmp_path: Path, damage: str) -> None:
    write_folder(tmp_path, random_images(5, side=32))
    file = tmp_path / "3.png"
    file.write_bytes(file.read_bytes()[:1500] if damage == "truncated" else b"no image")
    problem = problem_of(tmp_path)
    assert "1 files" in problem
    assert "3.png" in problem


def test_other_formats_are_refused_rather_than_passed_over(tmp_path: Path) -> None:
    write_folder(tmp_path, random_images(2))
    Image.fromarray(random_images(1)[0].transpose(1, 2, 0)).save(tmp_path / "x.webp")
    assert "x.webp" in problem_of(tmp_path)


def test_pickled_arrays_are_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=np.array([{}], dtype=object))
    assert "pickled" in problem_of(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", arr_0=np.zeros((1, 4, 4, 3), np.uint8), labels=np.array([{}], dtype=object))
    assert "`labels`" in problem_of(tmp_path / "b.npz")


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_images_that_are_no_bytes_are_refused(tmp_path: Path, dtype: type) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 3), dtype))
    assert "not bytes" in problem_of(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (4, 4), (0, 4, 4, 3)])
def test_arrays_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "a.npz", np.zeros(shape, np.uint8))
    assert "shape" in problem_of(tmp_path / "a.npz")


def test_a_cut_array_file_is_damaged(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((4, 8, 8, 3), 7, np.uint8))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-9])
    assert "damaged" in problem_of(tmp_path / "a.npy")


def test_a_flipped_bit_in_an_array_file_is_found(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "a.npz", random_images(40, side=16))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert "damaged" in problem_of(file)


@pytest.mark.parametrize("value", [0, 1, 77])
def test_unscaled_images_are_refused(tmp_path: Path, value: int) -> None:
    np.savez(tmp_path / "a.npz", np.full((2, 4, 4, 3), value, np.uint8))
    assert "unscaled" in problem_of(tmp_path / "a.npz")


def test_what_is_expected_is_required(tmp_path: Path) -> None:
    place = write_npz(tmp_path / "a.npz", random_images(6), labels=np.array([0, 1, 2, 0, 1, 2]))
    assert look(place, Expected(6, 3)).images.num_images == 6
    assert "50,000 are expected" in problem_of(place, Expected(images=50_000))
    assert "3 classes" in problem_of(place, Expected(classes=10))


def test_no_images_are_no_set(tmp_path: Path) -> None:
    assert "no images" in problem_of(tmp_path)
    assert "does not exist" in problem_of(tmp_path / "nowhere")
