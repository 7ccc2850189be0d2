"""Images: from any file a folder may hold, to the batch that a step sees."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from harness import data
from harness.errors import UserError
from harness.folder import list_images
from harness.images import Pixels, read_pixels, to_uint8, to_unit
from harness.latents import plain_codec
from harness.resolve import Request, resolve
from harness.source import Source, read_step
from harness.spec import Execution, PixelLatents, RunConfig, Task
from tests.builders import image_folder, quick_config


def _task(folder: Path, size: int = 16, channels: int = 3) -> Task:
    listing = list_images(folder)
    return Task(
        name="folder",
        channels=channels,
        image_size=size,
        num_classes=len(listing.classes),
        class_names=listing.classes,
        data_fingerprint=listing.fingerprint,
    )


def _batch(config: RunConfig, step: int) -> Tensor:
    assert isinstance(config.latents, PixelLatents)
    source = Source(data.digits(), plain_codec(config.latents, config.task, torch.device("cpu")))
    read = read_step(config, source, step, range(config.recipe.batch_size))
    return source.latents(torch.from_numpy(read.values), torch.from_numpy(read.posterior))


def test_the_digits_are_the_real_ones() -> None:
    images = data.digits()
    assert len(images) == 1797
    assert images.pixels(np.array([0])).shape == (1, 1, 8, 8)
    assert (images.pixels(np.arange(1797)).min(), images.pixels(np.arange(1797)).max()) == (0, 255)
    assert np.bincount(images.labels).min() > 170
    theirs = load_digits()
    assert np.array_equal(images.pixels(np.arange(1797))[:, 0], np.round(theirs.images * (255 / 16)).astype(np.uint8))
    assert np.array_equal(images.labels, theirs.target)


def test_every_epoch_sees_every_image_once(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "none", "recipe.batch_size=599")
    steps = [_batch(config, step) for step in range(6)]
    for epoch in (steps[:3], steps[3:]):
        seen = np.concatenate([to_uint8(batch.numpy(), "round") for batch in epoch]).reshape(1797, -1)
        everything = data.digits().pixels(np.arange(1797)).reshape(1797, -1)
        assert sorted(map(bytes, seen)) == sorted(map(bytes, everything))
    assert not np.array_equal(steps[0], steps[3])


def test_a_batch_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    one, two = quick_config(tmp_path), quick_config(tmp_path, seed=1)
    same = [_batch(one, 4) for _ in range(2)]
    assert np.array_equal(same[0], same[1])
    assert not np.array_equal(same[0], _batch(two, 4))


def test_arms_with_the_same_seed_see_the_same_batches(tmp_path: Path) -> None:
    none, dsr = quick_config(tmp_path), quick_config(tmp_path, "sit", "dsr")
    for step in range(3):
        a, b = (_batch(config, step) for config in (none, dsr))
        assert np.array_equal(a, b)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "I", "F"])
def test_every_mode_of_image_becomes_rgb_or_grey(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tiff"
    ramp = np.linspace(0, 255, 40 * 30).reshape(40, 30)
    if mode == "I;16":
        Image.fromarray((ramp * 256).astype(np.uint16)).save(path)
    elif mode == "I":
        Image.fromarray((ramp * 256).astype(np.int32)).save(path)
    elif mode == "P":
        path = tmp_path / "image.png"
        Image.fromarray(ramp.astype(np.uint8)).convert("RGB").convert("P").save(path)
    elif mode == "LA":
        path = tmp_path / "image.png"
        Image.fromarray(ramp.astype(np.uint8)).convert("LA").save(path)
    else:
        Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(path)
    for channels in (1, 3):
        pixels = read_pixels(path, 8, channels)
        assert pixels.shape == (channels, 8, 8)
        assert pixels[:, -1].mean() > pixels[:, 0].mean() + 50


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (300, 33), (5, 9)])
def test_any_shape_is_cropped_to_the_square(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "a.png")
    pixels = read_pixels(tmp_path / "a.png", 16, 3)
    assert pixels.shape == (3, 16, 16)
    assert (pixels.reshape(3, -1).T == [10, 20, 30]).all()


def test_a_folder_is_decoded_once_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SHARD", 4)
    folder, cache = image_folder(tmp_path / "data"), tmp_path / "cache"
    task = _task(folder)
    calls: list[Path] = []

    def stops_in_the_middle(path: Path, size: int, channels: int) -> Pixels:
        calls.append(path)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return read_pixels(path, size, channels)

    monkeypatch.setattr(data, "read_pixels", stops_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        data.load(task, folder, cache)
    images = data.load(task, folder, cache)
    assert len(calls) == 10 + 7, "two shards of four were kept"
    assert len(images) == 15
    np.testing.assert_array_equal(images.labels, np.repeat([0, 1, 2], 5))
    np.testing.assert_array_equal(images.pixels(np.array([14, 3]))[1], read_pixels(folder / "class0" / "3.png", 16, 3))
    data.load(task, folder, cache)
    assert len(calls) == 17


def test_one_corrupt_image_among_many_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = image_folder(tmp_path / "data", per_class=50, size=(8, 8))
    content = (folder / "class1" / "7.png").read_bytes()
    (folder / "class1" / "7.png").write_bytes(content[: len(content) // 2])
    images = data.load(_task(folder, 8), folder, tmp_path / "cache")
    assert len(images) == 149
    assert np.bincount(images.labels).tolist() == [50, 49, 50]
    assert images.notes == ("left out 1 unreadable of 150 images: class1/7.png",)
    assert "class1/7.png" in capsys.readouterr().err


@pytest.mark.parametrize("per_class", [1, 2])
def test_a_class_without_a_readable_image_is_refused(tmp_path: Path, per_class: int) -> None:
    folder = image_folder(tmp_path / "data", per_class=per_class, size=(8, 8))
    (folder / "class2" / "0.png").write_bytes(b"")
    if per_class == 1:
        with pytest.raises(UserError, match="class2"):
            data.load(_task(folder, 8), folder, tmp_path / "cache")
    else:
        assert len(data.load(_task(folder, 8), folder, tmp_path / "cache")) == 5


def test_a_link_that_leads_nowhere_is_an_unreadable_image(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "data")
    (folder / "class0" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert data.load(_task(folder), folder, tmp_path / "cache").notes[0].endswith("class0/gone.png")


def test_a_damaged_cache_is_said(tmp_path: Path) -> None:
    folder, cache = image_folder(tmp_path / "data"), tmp_path / "cache"
    data.load(_task(folder), folder, cache)
    shard = next(cache.rglob("*-pixels.npy"))
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(UserError, match="damaged"):
        data.load(_task(folder), folder, cache)
    shard.unlink()
    assert len(data.load(_task(folder), folder, cache)) == 15, "what the message advises does help"


def test_a_folder_that_changes_is_another_task(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "data")
    execution = Execution(data=str(folder), threads=1)
    before = resolve(Request("sit", task="folder", execution=execution))
    (folder / "class0" / "0.png").unlink()
    after = resolve(Request("sit", task="folder", execution=execution))
    assert before.run_id != after.run_id
    with pytest.raises(UserError, match="changed"):
        data.load(before.task, folder, tmp_path / "cache")


def test_the_path_of_the_data_is_no_part_of_a_run(tmp_path: Path) -> None:
    ids = {
        resolve(Request("sit", task="folder", execution=Execution(data=str(image_folder(tmp_path / name))))).run_id
        for name in ("here", "there")
    }
    assert len(ids) == 1


def test_flips_are_half_and_repeatable(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "none", "recipe.batch_size=512", "task.horizontal_flip=true")
    plain = quick_config(tmp_path, "sit", "none", "recipe.batch_size=512")
    flipped, straight = (_batch(c, 0).data.numpy() for c in (config, plain))
    mirrored = (flipped == straight[..., ::-1]).all((1, 2, 3)) & (flipped != straight).any((1, 2, 3))
    assert 200 < mirrored.sum() < 312
    assert (flipped[~mirrored] == straight[~mirrored]).all()


def test_eight_bits_survive_the_way_there_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    np.testing.assert_array_equal(to_uint8(to_unit(every), "round"), every)


def test_forgotten_images_are_read_again(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    images = data.load(_task(folder), folder, tmp_path / "cache")
    before = images.pixels(np.arange(len(images)))
    images.forget()
    assert (images.pixels(np.arange(len(images))) == before).all()
