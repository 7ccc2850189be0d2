"""Latents: what the denoiser sees of an image, the way back, and the cache between them."""

import errno
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness import latent_cache
from harness.codec import Codec
from harness.data import Images
from harness.errors import UserError
from harness.images import to_unit
from harness.latent_cache import Moments, moments_of
from harness.latents import VaeCodec, plain_codec
from harness.spec import PixelLatents, StandInLatents, Task, VaeLatents

CPU = torch.device("cpu")
TASK = Task(name="test", channels=3, image_size=16, num_classes=2, data_fingerprint="some")
MIRRORED = TASK.model_copy(update={"horizontal_flip": True})
WEIGHTS = "diffusion_pytorch_model.safetensors"
ALL = np.arange(10)
STRAIGHT = np.zeros(10, np.bool_)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real VAE of 7,000 random weights that makes 4 x 2 x 2 of 3 x 16 x 16, as diffusers writes it."""
    return _make_vae(tmp_path_factory.mktemp("vae"), seed=0)


def _make_vae(folder: Path, seed: int, **changes: Any) -> Path:
    diffusers = pytest.importorskip("diffusers")
    settings = {
        "block_out_channels": (4,) * 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": 2,
        "latent_channels": 4,
        "sample_size": 16,
    }
    torch.manual_seed(seed)
    diffusers.AutoencoderKL(**{**settings, **changes}).save_pretrained(folder, safe_serialization=True)
    return folder


def _codec(vae: Path, task: Task = TASK, **changes: Any) -> Codec:
    return plain_codec(VaeLatents(kind="sd-vae", weights=str(vae), **changes), task, CPU)


def _stand_in(task: Task = TASK) -> Codec:
    return plain_codec(StandInLatents(kind="stand-in", patch=4), task, CPU)


def _images(count: int = 10) -> Images:
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)
    return Images([pixels[: count // 3], pixels[count // 3 :]], np.zeros(count, np.int64))


def _data(count: int = 10) -> Tensor:
    return torch.from_numpy(to_unit(_images(count).pixels(np.arange(count))))


def test_pixels_pass_unchanged() -> None:
    codec = plain_codec(PixelLatents(), TASK, CPU)
    assert torch.equal(codec.decode(codec.latents(codec.moments(_data()), _data())), _data())
    assert (codec.is_cached, codec.draws, codec.moments_shape) == (False, False, (3, 16, 16))


@pytest.mark.parametrize(("patch", "shape"), [(1, (3, 16, 16)), (4, (48, 4, 4)), (16, (768, 1, 1))])
def test_the_stand_in_turns_patches_and_turns_them_back(patch: int, shape: tuple[int, ...]) -> None:
    spec = StandInLatents(kind="stand-in", patch=patch)
    codec = plain_codec(spec, TASK, CPU)
    latents = codec.latents(codec.moments(_data()), torch.zeros(()))
    assert latents.shape[1:] == shape == codec.moments_shape == (*spec.shape(TASK), spec.shape(TASK)[1])
    assert not torch.allclose(latents.flatten().sort().values, _data().flatten().sort().values, atol=0.1)
    torch.testing.assert_close(latents.square().sum((1, 2, 3)), _data().square().sum((1, 2, 3)))
    torch.testing.assert_close(codec.decode(latents), _data(), rtol=0, atol=2e-6)


def test_a_latent_pixel_of_the_stand_in_sees_its_patch_alone() -> None:
    codec, changed = _stand_in(), _data(1)
    changed[:, :, 4:8, 8:12] += 0.5
    moved = (codec.moments(changed) != codec.moments(_data(1))).any(1)[0]
    assert moved.nonzero().tolist() == [[1, 2]]


def test_the_rotation_is_the_same_in_every_run() -> None:
    first = _stand_in().moments(torch.ones(1, 3, 16, 16))[0, :3, 0, 0]
    torch.testing.assert_close(first, torch.tensor([-0.69521, 1.15709, -1.07347]), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("patch", "size", "word"), [(3, 16, "1, 2, 4, 8, 16"), (64, 64, "at most 4096 values")])
def test_patches_that_do_not_suit_are_refused(patch: int, size: int, word: str) -> None:
    task = TASK.model_copy(update={"image_size": size})
    with pytest.raises(UserError, match=word):
        plain_codec(StandInLatents(kind="stand-in", patch=patch), task, CPU)


def test_vae_latents_are_posterior_samples_times_the_scale(vae: Path) -> None:
    codec, noise = _codec(vae), torch.randn(10, 4, 2, 2)
    theirs = pytest.importorskip("diffusers").AutoencoderKL.from_pretrained(vae)
    with torch.no_grad():
        posterior = theirs.encode(_data()).latent_dist
        images = theirs.decode(posterior.mean).sample
    moments = codec.moments(_data())
    torch.testing.assert_close(codec.latents(moments, noise), (posterior.mean + posterior.std * noise) * 0.18215)
    torch.testing.assert_close(codec.decode(posterior.mean * 0.18215), images)
    assert (codec.is_cached, codec.draws, codec.moments_shape) == (True, True, (8, 2, 2))
    assert (posterior.std > 0.1).all(), "a noise that could not be seen"


def test_another_scale_is_applied_both_ways(tmp_path: Path, vae: Path) -> None:
    other = _codec(_make_vae(tmp_path, 0, scaling_factor=0.5), scale=0.5)
    usual = _codec(vae)
    moments, none = usual.moments(_data()), torch.zeros(())
    assert torch.equal(other.moments(_data()), moments)
    torch.testing.assert_close(other.latents(moments, none) / 0.5, usual.latents(moments, none) / 0.18215)
    torch.testing.assert_close(
        other.decode(other.latents(moments, none)), usual.decode(usual.latents(moments, none)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["sd-vae", "stand-in"])
def test_an_image_does_not_depend_on_its_companions(vae: Path, kind: str) -> None:
    codec = _codec(vae) if kind == "sd-vae" else _stand_in()
    moments = codec.moments(_data(19))
    latents = codec.latents(moments, torch.zeros(()))
    images = codec.decode(latents)
    for index in (0, 7, 8, 18):
        alone = slice(index, index + 1)
        assert torch.equal(codec.moments(_data(19)[alone]), moments[alone])
        assert torch.equal(codec.decode(latents[alone]), images[alone])


@pytest.mark.parametrize("kind", ["sd-vae", "stand-in"])
def test_the_training_precision_does_not_reach_the_latents(vae: Path, kind: str) -> None:
    codec = _codec(vae) if kind == "sd-vae" else _stand_in()
    before = torch.backends.cudnn.allow_tf32
    expected = codec.moments(_data())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.moments(_data()), expected)
        assert codec.decode(codec.latents(expected, torch.zeros(()))).dtype == torch.float32
    assert torch.backends.cudnn.allow_tf32 == before, "the setting of the rest of the program"


def test_a_denoiser_learns_from_latents_and_the_vae_does_not_learn(vae: Path) -> None:
    codec = _codec(vae)
    assert isinstance(codec, VaeCodec)
    network = torch.nn.Conv2d(4, 4, 1)
    network(codec.latents(codec.moments(_data()), torch.randn(10, 4, 2, 2))).sum().backward()
    assert network.weight.grad is not None
    assert not codec.decode(torch.randn(1, 4, 2, 2, requires_grad=True)).requires_grad


def test_loading_uses_up_no_random_number(vae: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _codec(vae)
    assert torch.equal(torch.rand(3), expected)


def test_the_identity_is_that_of_the_moments(tmp_path: Path, vae: Path) -> None:
    codec, other = _codec(vae), _codec(_make_vae(tmp_path / "other", seed=1))
    assert len({codec.weights_sha256, other.weights_sha256, None}) == 3
    assert codec.identity != other.identity
    assert codec.identity == _codec(_make_vae(tmp_path / "same", seed=0)).identity
    assert codec.identity != _codec(_make_vae(tmp_path / "activation", seed=0, act_fn="relu")).identity
    assert _stand_in().identity != plain_codec(StandInLatents(kind="stand-in", patch=2), TASK, CPU).identity


def test_the_vae_of_a_whole_pipeline_is_found(tmp_path: Path, vae: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vae").symlink_to(vae)
    assert _codec(tmp_path).identity == _codec(vae).identity


def test_older_names_and_half_precision_load(tmp_path: Path, vae: Path) -> None:
    state = {key: value.half() for key, value in load_file(vae / WEIGHTS).items()}
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for key in [key for key in state if "attentions.0.to_" in key]:
        new = next(name for name in old if name in key)
        state[key.replace(new, old[new])] = state.pop(key)
    assert sum("proj_attn" in key for key in state) == 4
    _copy(vae, tmp_path)
    save_file(state, tmp_path / WEIGHTS)
    moments = _codec(tmp_path).moments(_data())
    assert moments.dtype == torch.float32
    torch.testing.assert_close(moments, _codec(vae).moments(_data()), rtol=0, atol=0.02)


def _copy(vae: Path, folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads((vae / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **changes}))
    (folder / WEIGHTS).write_bytes((vae / WEIGHTS).read_bytes())


def test_a_name_that_the_hub_does_not_give_says_what_to_do_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vae: Path
) -> None:
    _go_offline(tmp_path, monkeypatch)
    for name in ("stabilityai/sd-vae-ft-ema", "/no/such/folder", "not a name"):
        with pytest.raises(UserError) as error:
            _codec(Path(name))
        assert name in error.value.problem
        for word in ("config.json", WEIGHTS, "--set latents.weights=/path/to/folder"):
            assert word in error.value.remedy


def test_what_the_hub_gave_once_is_taken_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vae: Path
) -> None:
    _go_offline(tmp_path, monkeypatch)
    for name, place in (("someone/vae", "."), ("someone/pipeline", "vae")):
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("abc")
        _copy(vae, repository / "snapshots" / "abc" / place)
        assert _codec(Path(name)).identity == _codec(vae).identity


def _go_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def test_a_folder_without_a_vae_is_refused(tmp_path: Path, vae: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        _codec(tmp_path)
    _copy(vae, tmp_path)
    with pytest.raises(UserError, match="names a file"):
        _codec(tmp_path / WEIGHTS)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"no {WEIGHTS}"):
        _codec(tmp_path)


def test_a_pickle_is_not_loaded(tmp_path: Path, vae: Path) -> None:
    _copy(vae, tmp_path)
    torch.save(load_file(tmp_path / WEIGHTS), tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(UserError, match="is a pickle"):
        _codec(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"_class_name": "UNet2DConditionModel"}'])
def test_a_config_of_something_else_is_refused(tmp_path: Path, vae: Path, content: str) -> None:
    _copy(vae, tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        _codec(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"norm_num_groups": 3}, {"down_block_types": ["Nobody"] * 4}, {"block_out_channels": "many"}]
)
def test_a_config_that_cannot_be_built_is_refused(tmp_path: Path, vae: Path, changes: dict[str, Any]) -> None:
    _copy(vae, tmp_path, **changes)
    with pytest.raises(UserError, match=r"config\.json describes no VAE"):
        _codec(tmp_path)


def test_weights_are_loaded_whole_or_not_at_all(tmp_path: Path, vae: Path) -> None:
    _copy(vae, tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    state["nobody.weight"] = state.pop("encoder.conv_in.bias")
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=r"1 missing: encoder\.conv_in\.bias; 1 unexpected: nobody\.weight"):
        _codec(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((vae / WEIGHTS).read_bytes()[:3000])
    with pytest.raises(UserError, match="damaged"):
        _codec(tmp_path)


@pytest.mark.parametrize(
    ("latents", "task", "words"),
    [
        ({}, {"image_size": 20}, "task.image_size=24"),
        ({}, {"channels": 1}, "takes images of 3 channels, the task test has 1"),
        ({"channels": 16}, {}, "latents.channels=4"),
        ({"downsampling": 16}, {}, "latents.downsampling=8"),
        ({"scale": 0.13025}, {}, "latents.scale=0.18215"),
    ],
)
def test_a_vae_that_does_not_suit_the_run_is_refused(
    vae: Path, latents: dict[str, Any], task: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        _codec(vae, TASK.model_copy(update=task), **latents)


def test_a_vae_that_shifts_its_latents_is_refused(tmp_path: Path, vae: Path) -> None:
    _copy(vae, tmp_path, shift_factor=0.1)
    with pytest.raises(UserError, match="shift_factor"):
        _codec(tmp_path)


def test_without_diffusers_the_error_says_how_to_get_it(vae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match="pip install diffusers"):
        _codec(vae)
    assert _stand_in().decode(torch.zeros(1, 48, 4, 4)).shape == (1, 3, 16, 16)


def test_the_cache_holds_what_the_codec_gives(tmp_path: Path, vae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_cache, "SHARD", 4)
    codec = _codec(vae)
    moments = moments_of(_images(), TASK, codec, tmp_path, batch_size=3)
    order = np.array([9, 0, 5, 5, 3])
    assert len(moments) == 10
    assert all(isinstance(shard, np.memmap) for shard in moments.shards)
    np.testing.assert_array_equal(moments.of(order, np.zeros(5, np.bool_)), codec.moments(_data())[order].numpy())


def test_the_image_is_mirrored_and_not_its_latent(tmp_path: Path, vae: Path) -> None:
    codec = _codec(vae, MIRRORED)
    flipped = ALL % 2 == 0
    moments = moments_of(_images(), MIRRORED, codec, tmp_path, 100).of(ALL, flipped)
    straight = codec.moments(_data()).numpy()
    np.testing.assert_array_equal(moments[flipped], codec.moments(_data().flip(-1)).numpy()[flipped])
    np.testing.assert_array_equal(moments[~flipped], straight[~flipped])
    assert np.abs(moments[flipped] - straight[flipped, :, :, ::-1]).max() > 0.01


def test_the_bytes_do_not_depend_on_the_batch(tmp_path: Path, vae: Path) -> None:
    folders = [tmp_path / str(size) for size in (1, 3, 100)]
    for folder, size in zip(folders, (1, 3, 100), strict=True):
        moments_of(_images(), MIRRORED, _codec(vae, MIRRORED), folder, size)
    assert len({next(folder.glob("*/*.npy")).read_bytes() for folder in folders}) == 1


def test_other_moments_have_another_folder(tmp_path: Path, vae: Path) -> None:
    other = _make_vae(tmp_path / "other", seed=1)
    fingerprint = TASK.model_copy(update={"data_fingerprint": "changed"})
    cache = tmp_path / "cache"
    for task, place in ((TASK, vae), (TASK, other), (MIRRORED, vae), (fingerprint, vae), (TASK, vae)):
        moments_of(_images(), task, _codec(place), cache, 100)
    assert len(list(cache.iterdir())) == 4
    about = [json.loads(file.read_text()) for file in cache.glob("*/about.json")]
    assert {note["weights_sha256"] for note in about} == {_codec(vae).weights_sha256, _codec(other).weights_sha256}


def test_an_encoding_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latent_cache, "SHARD", 4)
    codec, calls = _stand_in(), []
    encode = codec.moments

    def stops_in_the_middle(images: Tensor) -> Tensor:
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(images)

    monkeypatch.setattr(codec, "moments", stops_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        moments_of(_images(), TASK, codec, tmp_path, 4)
    assert "encoding 10 of 10 images, once: 0.0 MB" in capsys.readouterr().err
    next(tmp_path.glob("*/000000004.npy")).with_name(".000000008.npy.0a0b.part").write_bytes(b"half a sh")
    moments = moments_of(_images(), TASK, codec, tmp_path, 4)
    assert calls == [4, 4, 2, 2]
    assert "encoding 2 of 10 images" in capsys.readouterr().err
    np.testing.assert_array_equal(moments.of(ALL, STRAIGHT), encode(_data()).numpy())
    next(tmp_path.glob("*/000000004.npy")).unlink()
    moments_of(_images(), TASK, codec, tmp_path, 4)
    assert calls == [4, 4, 2, 2, 4]
    moments_of(_images(), TASK, codec, tmp_path, 4)
    assert len(calls) == 5


def _encode_slowly(folder: str, log: str, count: int) -> None:
    """One of `count` processes: when all are ready, encode, noting each batch, of one shard each, in a log."""
    latent_cache.SHARD = 1
    codec = _stand_in()
    encode = codec.moments

    def slow(images_NCHW: Tensor) -> Tensor:
        with Path(log).open("a", encoding="utf-8") as out:
            out.write(f"{os.getpid()}\n")
        time.sleep(0.1)
        return encode(images_NCHW)

    codec.moments = slow  # type: ignore[method-assign]
    Path(f"{log}-{os.getpid()}").touch()
    while len(list(Path(log).parent.glob("log-*"))) < count:
        time.sleep(0.01)
    moments = moments_of(_images(), TASK, codec, Path(folder), 1)
    assert np.array_equal(moments.of(ALL, STRAIGHT), encode(_data()).numpy())


def _start(count: int, folder: Path, log: Path) -> Sequence[BaseProcess]:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_encode_slowly, args=(str(folder), str(log), count), daemon=True) for _ in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    processes = _start(2, tmp_path / "cache", tmp_path / "log")
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    authors = (tmp_path / "log").read_text().split()
    assert len(authors) == 10, "no shard was encoded twice"
    assert set(authors) == {str(process.pid) for process in processes}, "both had their share"


def test_a_killed_process_leaves_whole_shards_and_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_cache, "SHARD", 1)
    (process,) = _start(1, tmp_path / "cache", tmp_path / "log")
    while len(list((tmp_path / "cache").glob("*/*.npy"))) < 3:
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    made = len(list((tmp_path / "cache").glob("*/*.npy")))
    assert 3 <= made < 10
    moments = moments_of(_images(), TASK, _stand_in(), tmp_path / "cache", 100)
    np.testing.assert_array_equal(moments.of(ALL, STRAIGHT), _stand_in().moments(_data()).numpy())


@pytest.mark.parametrize("kept", [0, 50, 300])
def test_a_damaged_shard_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(latent_cache, "SHARD", 4)
    moments_of(_images(), TASK, _stand_in(), tmp_path, 100)
    damaged, missing, _ = sorted(tmp_path.glob("*/*.npy"))
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:kept])
    with pytest.raises(UserError, match=f"{damaged.name} is damaged") as error:
        moments_of(_images(), TASK, _stand_in(), tmp_path, 100)
    assert not missing.exists()
    assert "delete it" in error.value.remedy
    damaged.unlink()
    assert len(moments_of(_images(), TASK, _stand_in(), tmp_path, 100)) == 10, "what the message advises does help"


def test_a_shard_of_another_shape_is_damaged(tmp_path: Path) -> None:
    moments_of(_images(), TASK, _stand_in(), tmp_path, 100)
    np.save(next(tmp_path.glob("*/*.npy")), np.zeros((10, 1, 48, 4, 3), np.float32))
    with pytest.raises(UserError, match="delete it"):
        moments_of(_images(), TASK, _stand_in(), tmp_path, 100)


def test_a_full_disk_and_a_closed_folder_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another folder"):
        moments_of(_images(), TASK, _stand_in(), tmp_path / "file", 100)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match="free some space"):
        moments_of(_images(), TASK, _stand_in(), tmp_path / "cache", 100)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.suffix in (".npy", ".part")]


def test_a_whole_cache_needs_no_write_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments_of(_images(), TASK, _stand_in(), tmp_path, 100)
    next(tmp_path.glob("*/lock")).unlink()
    assert len(moments_of(_images(), TASK, _stand_in(), tmp_path, 100)) == 10
    assert not list(tmp_path.glob("*/lock")), "nothing was written"


def test_values_that_are_no_numbers_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = _stand_in()
    monkeypatch.setattr(codec, "moments", lambda images: torch.full((len(images), 48, 4, 4), torch.nan))
    with pytest.raises(UserError, match="no numbers"):
        moments_of(_images(), TASK, codec, tmp_path, 100)
    assert not list(tmp_path.glob("*/*.npy"))


def test_many_images_make_larger_shards_not_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_cache, "SHARD", 1)
    monkeypatch.setattr(latent_cache, "MOST_SHARDS", 4)
    moments = moments_of(_images(), TASK, _stand_in(), tmp_path, 100)
    assert [len(shard) for shard in moments.shards] == [3, 3, 3, 1]
    np.testing.assert_array_equal(moments.of(ALL, STRAIGHT), _stand_in().moments(_data()).numpy())


def test_mirrored_moments_are_not_asked_of_a_task_without() -> None:
    with pytest.raises(AssertionError, match="mirrors nothing"):
        Moments([np.zeros((10, 1, 3, 2, 2), np.float32)]).of(ALL, ~STRAIGHT)
