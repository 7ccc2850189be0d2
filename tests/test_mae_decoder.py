"""The decoder of representation latents: official names, official arithmetic, strict files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from harness import decoders
from harness.decoders import DecoderShape
from harness.errors import UserError
from harness.mae_decoder import MaeDecoder, fresh_decoder, load_decoder, unpatchify
from harness.positions import sin_cos_2d

torch.set_num_threads(1)

SMALL = DecoderShape(width=16, layers=2, heads=2, hidden=24, patch=2, latent_channels=5, tokens=9)
GREY = SMALL.model_copy(update={"mean": (0.25,), "std": (0.5,)})


def _latents(count: int = 3, tokens: int = 9) -> Tensor:
    return torch.randn(count, tokens, 5, generator=torch.Generator().manual_seed(1))


def _shape(name: str, latent_channels: int) -> DecoderShape:
    size = decoders.size(name).model_dump()
    return DecoderShape(**size, patch=16, latent_channels=latent_channels, tokens=256)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("vit-b", (86_435_328, 86_730_240)),
        ("vit-l", (304_150_272, 304_543_488)),
        ("vit-xl", (415_352_704, 415_795_072)),
    ],
)
def test_the_sizes_are_the_official_ones(name: str, counts: tuple[int, int]) -> None:
    for latent_channels, wanted in zip((768, 1152), counts, strict=True):
        with torch.device("meta"):
            decoder = MaeDecoder(_shape(name, latent_channels))
        assert sum(parameter.numel() for parameter in decoder.parameters()) == wanted
        assert len(decoder.state_dict()) == 8 + 16 * decoder.shape.layers
        assert decoder.shape.image_size == 256


def test_the_names_are_the_official_ones() -> None:
    state = MaeDecoder(SMALL).state_dict()
    layer = [
        *(f"attention.attention.{name}" for name in ("query", "key", "value")),
        *("attention.output.dense", "intermediate.dense", "output.dense", "layernorm_before", "layernorm_after"),
    ]
    modules = [
        "decoder_embed",
        "decoder_norm",
        "decoder_pred",
        *(f"decoder_layers.{i}.{m}" for i in (0, 1) for m in layer),
    ]
    names = {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    assert set(state) == names | {"decoder_pos_embed", "trainable_cls_token"}
    assert state["decoder_pos_embed"].shape == (1, 10, 16)
    assert state["trainable_cls_token"].shape == (1, 1, 16)


def test_the_position_table_is_fixed_and_leaves_the_class_token_alone() -> None:
    decoder = MaeDecoder(SMALL)
    assert not decoder.decoder_pos_embed.requires_grad
    assert not decoder.decoder_pos_embed[0, 0].any()
    assert torch.equal(decoder.decoder_pos_embed[0, 1:], torch.tensor(sin_cos_2d(3, 3, 16)))


def test_the_arithmetic_is_vit_maes() -> None:
    """Against the formula of section 6.3 of RAE's specification, written out with plain matrix products."""
    decoder = fresh_decoder(SMALL, 3).requires_grad_(requires_grad=False)
    for parameter in decoder.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)), alpha=0.1)
    state = decoder.state_dict()

    def linear(name: str, x: Tensor) -> Tensor:
        out: Tensor = x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
        return out

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        out: Tensor = scaled * state[f"{name}.weight"] + state[f"{name}.bias"]
        return out

    x = torch.cat([state["trainable_cls_token"].expand(3, 1, 16), linear("decoder_embed", _latents())], dim=1)
    x = x + state["decoder_pos_embed"]
    for i in range(2):
        name = f"decoder_layers.{i}"
        h = norm(f"{name}.layernorm_before", x)
        q, k, v = (linear(f"{name}.attention.attention.{each}", h).chunk(2, -1) for each in ("query", "key", "value"))
        heads = [(q[j] @ k[j].mT / 8**0.5).softmax(-1) @ v[j] for j in range(2)]
        x = x + linear(f"{name}.attention.output.dense", torch.cat(heads, -1))
        h = linear(f"{name}.intermediate.dense", norm(f"{name}.layernorm_after", x))
        h = h * (1 + torch.erf(h / 2**0.5)) / 2
        x = x + linear(f"{name}.output.dense", h)
    patches = linear("decoder_pred", norm("decoder_norm", x))[:, 1:]
    torch.testing.assert_close(decoder.patches(_latents()), patches, rtol=1e-5, atol=1e-5)


def test_patches_are_rows_columns_channels() -> None:
    picture = unpatchify(torch.arange(48.0).reshape(1, 4, 12), 2)
    assert picture.shape == (1, 3, 4, 4)
    assert picture[0, 0].tolist() == [[0, 3, 12, 15], [6, 9, 18, 21], [24, 27, 36, 39], [30, 33, 42, 45]]
    assert torch.equal(picture[0, 1], picture[0, 0] + 1)


def test_pixels_are_those_of_the_encoder() -> None:
    decoder = fresh_decoder(GREY, 0)
    plain = unpatchify(decoder.patches(_latents()), 2)
    assert decoder(_latents()).shape == (3, 1, 6, 6)
    torch.testing.assert_close(decoder(_latents()), plain * 0.5 + 0.25)


def test_latents_of_another_grid_are_resized() -> None:
    decoder = fresh_decoder(SMALL, 0)
    embedded = decoder.decoder_embed(_latents(tokens=4)).mT.reshape(3, 16, 2, 2)
    resized = functional.interpolate(embedded, (3, 3), mode="bilinear", align_corners=False).flatten(2).mT
    torch.testing.assert_close(decoder.embed(_latents(tokens=4))[:, 1:], resized + decoder.decoder_pos_embed[:, 1:])


def test_a_seed_decides_a_fresh_decoder_and_nothing_else() -> None:
    before = torch.get_rng_state()
    first, same, other = fresh_decoder(SMALL, 1), fresh_decoder(SMALL, 1), fresh_decoder(SMALL, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.decoder_pred.weight, same.decoder_pred.weight)
    assert not torch.equal(first.decoder_pred.weight, other.decoder_pred.weight)
    assert not first.decoder_embed.bias.any()
    assert 0 < first.trainable_cls_token.abs().max() < 0.1


@pytest.mark.parametrize("form", ["bare", "safetensors", "wrapped", "training"])
def test_official_files_load(tmp_path: Path, form: str) -> None:
    state = {key: value.clone() for key, value in fresh_decoder(GREY, 7).state_dict().items()}
    path = tmp_path / "model.pt"
    match form:
        case "bare":
            torch.save(state, path)
        case "safetensors":
            path = tmp_path / "model.safetensors"
            save_file(state, path)
        case "wrapped":
            torch.save({f"module._orig_mod.{key}": value for key, value in state.items()}, path)
        case "training":
            torch.save({"model": fresh_decoder(GREY, 8).state_dict(), "ema": state}, path)
    decoder = load_decoder(path, GREY)
    assert all(torch.equal(value, state[key]) for key, value in decoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in decoder.parameters())
    assert torch.equal(decoder(_latents()), fresh_decoder(GREY, 7)(_latents()))


def _rename(state: dict[str, Any]) -> dict[str, Any]:
    return {f"decoder.{key}": value for key, value in state.items()}


def _shorten(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if "decoder_layers.1" not in key}


@pytest.mark.parametrize(
    ("change", "words"), [(_rename, r"40 unexpected: decoder\.trainable_cls_token"), (_shorten, "16 missing")]
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    torch.save(change(MaeDecoder(SMALL).state_dict()), tmp_path / "model.pt")
    with pytest.raises(UserError, match=words) as caught:
        load_decoder(tmp_path / "model.pt", SMALL)
    assert "model.pt" in caught.value.problem


def test_another_size_is_refused(tmp_path: Path) -> None:
    torch.save(MaeDecoder(SMALL.model_copy(update={"latent_channels": 6})).state_dict(), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"decoder_embed\.weight \(16, 6\) for \(16, 5\)"):
        load_decoder(tmp_path / "model.pt", SMALL)


@pytest.mark.parametrize("change", [{"tokens": 8}, {"heads": 3}, {"mean": (0.5,)}, {"std": (1.0, 0.0, 1.0)}])
def test_shapes_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DecoderShape(**SMALL.model_dump() | change)


def test_names_are_known_or_guessed() -> None:
    with pytest.raises(UserError, match="did you mean vit-xl"):
        decoders.size("vitxl")
    with pytest.raises(UserError, match="known: digits, rae"):
        decoders.recipe("imagenet")


def test_every_parameter_but_the_table_learns() -> None:
    decoder = fresh_decoder(SMALL, 0)
    decoder(_latents()).square().mean().backward()
    still = [name for name, each in decoder.named_parameters() if each.grad is None]
    assert still == ["decoder_pos_embed"]
    assert isinstance(decoder.decoder_norm, nn.LayerNorm)
