"""RAE's encode and decode, and the statistics that whiten latents."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness import latent_statistics
from harness.data import Images
from harness.decoders import DecoderShape
from harness.encoder import Features
from harness.errors import UserError
from harness.latent_statistics import (
    LatentMoments,
    gather,
    read_official_statistics,
    read_statistics,
    write_statistics,
)
from harness.mae_decoder import fresh_decoder, unpatchify
from harness.rae import NO_WHITENING, LatentForm, Noise, as_grid, as_tokens, decode, encode, whitening_of
from harness.reconstruction import errors_of, measure

torch.set_num_threads(1)

PLAIN = LatentForm()
TOKENS = LatentForm(as_grid=False)
AFTER = LatentForm(norms_of_whitened=True)
SHAPE = DecoderShape(width=16, layers=1, heads=2, hidden=16, patch=2, latent_channels=6, tokens=4)


def _drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def features() -> Features:
    """Two images of four tokens of six channels: a batch that RAE's own code takes for a pair of outputs."""
    return Features(_drawn(2, 4, 6, seed=1), _drawn(2, 4, 6, seed=2) * 3)


def test_tokens_become_a_grid_row_by_row(features: Features) -> None:
    grid = encode(features, PLAIN).values
    assert grid.shape == (2, 6, 2, 2)
    assert torch.equal(grid[1, :, 1, 0], features.normed[1, 2])
    assert torch.equal(as_tokens(as_grid(features.normed)), features.normed)
    assert torch.equal(encode(features, TOKENS).values, features.normed)


def test_latents_may_be_what_the_last_norm_received(features: Features) -> None:
    form = LatentForm(before_norm=True)
    assert torch.equal(encode(features, form).values, as_grid(features.raw))
    torch.testing.assert_close(encode(features, form).norms[:, 0].flatten(1), features.raw.square().sum(-1).sqrt())


def test_norms_are_of_the_encoder_or_of_whitened_latents(features: Features) -> None:
    whitening = whitening_of(None, torch.full((6, 1, 1), 4.0), 0.0)
    before, after = encode(features, PLAIN, whitening), encode(features, AFTER, whitening)
    assert torch.equal(before.values, after.values)
    assert before.norms.shape == after.norms.shape == (2, 1, 2, 2)
    torch.testing.assert_close(after.norms, before.norms / 2)
    assert encode(features, TOKENS).norms.shape == (2, 4, 1)


def test_whitening_takes_the_place_of_what_statistics_lack() -> None:
    latents, mean, variance = _drawn(2, 6, 2, 2), _drawn(6, 2, 2, seed=3), _drawn(6, 2, 2, seed=4).square()
    whole = whitening_of(mean, variance).whiten(latents)
    torch.testing.assert_close(whole, (latents - mean) / (variance + 1e-5).sqrt())
    torch.testing.assert_close(whitening_of(None, variance).whiten(latents), latents / (variance + 1e-5).sqrt())
    torch.testing.assert_close(whitening_of(mean, None, 3.0).whiten(latents), (latents - mean) / 2)
    torch.testing.assert_close(whitening_of(mean, variance).unwhiten(whole), latents)
    assert torch.equal(NO_WHITENING.whiten(latents), latents)


def test_noise_is_added_before_whitening(features: Features) -> None:
    uniform, normal = torch.tensor([0.25, 0.5]), _drawn(2, 4, 6, seed=5)
    whitening = whitening_of(None, torch.tensor(4.0), 0.0)
    noisy = encode(features, PLAIN, whitening, Noise(0.8, uniform, normal))
    wanted = features.normed + torch.tensor([0.2, 0.4])[:, None, None] * normal
    torch.testing.assert_close(noisy.values, as_grid(wanted) / 2)
    assert torch.equal(noisy.norms, encode(features, PLAIN).norms), "norms are taken before noise"


def test_noise_may_be_added_after_whitening(features: Features) -> None:
    uniform, normal = torch.tensor([0.25, 0.5]).reshape(2, 1, 1, 1), _drawn(2, 6, 2, 2, seed=5)
    whitening = whitening_of(None, torch.tensor(4.0), 0.0)
    noisy = encode(features, AFTER, whitening, Noise(0.8, uniform, normal))
    torch.testing.assert_close(noisy.values, as_grid(features.normed) / 2 + 0.8 * uniform * normal)


def test_noise_may_follow_norms_within_bounds() -> None:
    norms = torch.tensor([[0.1, 1.0, 2.0, 100.0]])
    ratio = Noise(1.0, torch.ones(1), torch.ones(1, 4, 1), norm_scaled=True)(torch.zeros(1, 4, 1), norms[..., None])
    torch.testing.assert_close(ratio.flatten(), torch.tensor([0.2, 1.0, 2.0, 5.0]), rtol=1e-5, atol=0)


def test_decoding_undoes_whitening_and_takes_grids_and_tokens() -> None:
    decoder, latents = fresh_decoder(SHAPE, 0), _drawn(2, 6, 2, 2)
    whitening = whitening_of(_drawn(6, 2, 2, seed=3), _drawn(6, 2, 2, seed=4).square())
    images = decode(whitening.whiten(latents), decoder, whitening)
    assert images.shape == (2, 3, 4, 4)
    torch.testing.assert_close(images, decode(as_tokens(latents), decoder), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decode(latents, decoder), unpatchify(decoder.patches(as_tokens(latents)), 2))


@pytest.mark.parametrize("shape", [(50, 3, 2, 2), (50, 3, 7)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_one_pass_is_the_whole(shape: tuple[int, ...], offset: float) -> None:
    latents = _drawn(*shape) + offset
    over = (0,) if len(shape) == 4 else (0, 2)
    whole = latents.numpy().astype(np.float64)
    moments, halves = LatentMoments(), [LatentMoments(), LatentMoments()]
    for batch in torch.split(latents, 7):
        moments.add(batch)
    for half, batch in zip(halves, torch.split(latents, 30), strict=True):
        half.add(batch)
    halves[0].merge(halves[1])
    halves[0].merge(LatentMoments())
    for each in (moments, halves[0]):
        assert each.count == whole[:, 0].size // (4 if len(shape) == 4 else 1)
        np.testing.assert_allclose(each.mean, whole.mean(over), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(each.variance, whole.var(over), rtol=1e-10)


def test_statistics_of_images_may_count_their_mirror_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 2, 2), dtype=np.uint8)
    images, device = Images([pixels[:2], pixels[2:]], np.zeros(5, np.int64)), torch.device("cpu")
    both = np.concatenate([pixels, pixels[..., ::-1]]).astype(np.float32) / 255
    for mirrored, data in ((False, both[:5]), (True, both)):
        moments = gather(lambda x: x, images, tmp_path / "partial.safetensors", device, mirrored=mirrored)
        assert moments.count == len(data)
        np.testing.assert_allclose(moments.mean, data.mean(0), rtol=1e-6)
        np.testing.assert_allclose(moments.variance, data.var(0), rtol=1e-5)


def test_a_killed_pass_goes_on_to_the_same_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_statistics, "SECONDS_BETWEEN", -1.0)
    pixels = np.random.default_rng(1).integers(0, 256, (200, 1, 2, 2), dtype=np.uint8)
    images, device = Images([pixels], np.zeros(200, np.int64)), torch.device("cpu")
    whole = gather(lambda x: x, images, tmp_path / "whole.safetensors", device)
    seen: list[int] = []

    def killed(images_NKHW: torch.Tensor) -> torch.Tensor:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(images_NKHW))
        return images_NKHW

    with pytest.raises(KeyboardInterrupt):
        gather(killed, images, tmp_path / "partial.safetensors", device)
    later: list[int] = []

    def counted(images_NKHW: torch.Tensor) -> torch.Tensor:
        later.append(len(images_NKHW))
        return images_NKHW

    resumed = gather(counted, images, tmp_path / "partial.safetensors", device)
    assert later == [64, 8]
    assert torch.equal(resumed.mean, whole.mean)
    assert torch.equal(resumed.squares, whole.squares)


@pytest.fixture
def moments() -> LatentMoments:
    moments = LatentMoments()
    moments.add(_drawn(9, 3, 2, 2) + 5)
    return moments


def test_statistics_are_kept_with_their_encoder(tmp_path: Path, moments: LatentMoments) -> None:
    first, second = tmp_path / "a" / "s.safetensors", tmp_path / "b.safetensors"
    for path in (first, second):
        write_statistics(path, moments.statistics("encoder-one", "some-data"))
    found = read_statistics(first, "encoder-one")
    assert torch.equal(found.mean, moments.mean)
    assert torch.equal(found.variance, moments.variance)
    assert (found.origin.encoder, found.origin.data, found.origin.count) == ("encoder-one", "some-data", 9)
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(UserError, match="of the encoder encoder-one, not of encoder-two"):
        read_statistics(first, "encoder-two")


def test_damaged_statistics_are_refused(tmp_path: Path, moments: LatentMoments) -> None:
    path = tmp_path / "s.safetensors"
    write_statistics(path, moments.statistics("one", ""))
    whole = path.read_bytes()
    for content in (b"", whole[:40], whole[:-8], whole.replace(b"encoder", b"encodes")):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            read_statistics(path, "one")
    with pytest.raises(UserError, match="there is no weights file"):
        read_statistics(tmp_path / "none.safetensors", "one")


def test_statistics_without_an_encoder_are_imported_or_refused(tmp_path: Path) -> None:
    mean, variance = _drawn(3, 2, 2), _drawn(3, 2, 2).square()
    path = tmp_path / "stat.pt"
    torch.save({"mean": mean, "var": variance}, path)
    found = read_official_statistics(path, (3, 2, 2), "one")
    assert torch.equal(found.mean, mean.double())
    assert torch.equal(found.variance, variance.double())
    assert found.origin.encoder == "one"
    write_statistics(tmp_path / "ours.safetensors", found)
    assert torch.equal(read_statistics(tmp_path / "ours.safetensors", "one").variance, variance.double())
    save_file({"mean": mean, "var": variance}, tmp_path / "bare.safetensors")
    for bare in (path, tmp_path / "bare.safetensors"):
        with pytest.raises(UserError, match="do not say which encoder"):
            read_statistics(bare, "one")


def test_official_statistics_may_lack_one_of_the_two(tmp_path: Path) -> None:
    torch.save({"var": torch.ones(3, 1, 1) * 2}, tmp_path / "stat.pt")
    found = read_official_statistics(tmp_path / "stat.pt", (3, 2, 2), "one")
    assert torch.equal(found.mean, torch.zeros(3, 1, 1).double())
    assert torch.equal(found.variance, torch.full((3, 1, 1), 2).double())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"mean": torch.zeros(3, 2, 2), "var": torch.ones(3, 2, 2), "count": torch.ones(1)}, "its entries are"),
        ({"average": torch.zeros(3, 2, 2)}, "its entries are average"),
        ({}, "its entries are none"),
        (torch.zeros(3, 2, 2), "its entries are none"),
        ({"mean": [0.0], "var": [1.0]}, "its entries are"),
        ({"mean": torch.zeros(3), "var": torch.ones(3)}, "the shape"),
        ({"mean": torch.zeros(3, 4, 4), "var": torch.ones(3, 4, 4)}, "the shape"),
        ({"mean": torch.zeros(3, 2, 2), "var": torch.ones(3, 1, 1)}, "the variance"),
        ({"mean": torch.zeros(3, 2, 2), "var": -torch.ones(3, 2, 2)}, "no mean or variance"),
        ({"mean": torch.full((3, 2, 2), torch.nan), "var": torch.ones(3, 2, 2)}, "no mean or variance"),
    ],
)
def test_other_files_are_no_statistics(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "stat.pt")
    with pytest.raises(UserError, match=words):
        read_official_statistics(tmp_path / "stat.pt", (3, 2, 2), "one")


def test_errors_are_of_each_image() -> None:
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    found = errors_of(images, torch.stack([images[0], images[1] + 0.1, images[2] - 5]))
    np.testing.assert_allclose(found.psnr[:2], [100, 20], rtol=1e-5)
    np.testing.assert_allclose(found.l1, [0, 0.1, images[2].mean().item()], atol=1e-7)
    np.testing.assert_allclose(found.l2, [0, 0.01, images[2].square().mean().item()], atol=1e-7)


def test_reconstruction_is_measured_on_the_images_asked_for() -> None:
    pixels = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    images = Images([pixels], np.zeros(100, np.int64))
    found = measure(lambda x: x * 0, images, np.arange(10, 90), torch.device("cpu"))
    np.testing.assert_allclose(found.l1, np.arange(10, 90) / 255, rtol=1e-6)
