"""The probe of encoders against outliers that were planted, and attention that was computed by hand."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.layers.config import set_fused_attn
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from harness import encoder_records
from harness.encoder import Encoder, ExtraTokens
from harness.encoder_records import EncoderOutliers, LayerOutliers, PatchChange, difference, pooled
from harness.encoder_report import compared, report
from harness.encoders import EncoderDefinition
from harness.errors import UserError
from harness.metrics import attention_received as attention_module
from harness.metrics.encoder_outliers import probe
from harness.metrics.patch_change import change_of_patches, outlier_mask, zeroing_control
from harness.norm_figure import draw

SIDE, PATCH, WIDTH, DEPTH, HEADS = 40, 8, 24, 4, 2
GRID = SIDE // PATCH
PATCHES = GRID**2
KINDS = ("plain", "class", "registers", "rotary")


def _definition(kind: str) -> EncoderDefinition:
    return EncoderDefinition(
        name=f"tiny-{kind}",
        title=f"Tiny, {kind}",
        family="dinov3" if kind == "rotary" else "dinov2",
        image_size=SIDE,
        patch=PATCH,
        width=WIDTH,
        depth=DEPTH,
        heads=HEADS,
        hidden=2 * WIDTH,
        table=GRID,
        class_token=kind != "plain",
        registers=2 if kind in ("registers", "rotary") else 0,
    )


def _encoder(kind: str = "class") -> Encoder:
    """A tiny encoder with the same weights every time."""
    definition = _definition(kind)
    sizes: dict[str, Any] = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH}
    sizes |= {"num_heads": HEADS, "mlp_ratio": 2.0, "num_classes": 0}
    vit: VisionTransformer | Eva
    if kind == "rotary":
        vit = Eva(**sizes, num_reg_tokens=2, use_abs_pos_emb=False, use_rot_pos_emb=True, rope_type="dinov3")
    else:
        vit = VisionTransformer(
            **sizes, class_token=definition.class_token, reg_tokens=definition.registers, global_pool=""
        )
    random = torch.Generator().manual_seed(7)
    for name, weight in vit.named_parameters():
        values = 0.15 * torch.randn(weight.shape, generator=random)
        weight.data = values + 1 if weight.ndim == 1 and "norm" in name and name.endswith("weight") else values
    return Encoder(definition, vit)


def _pixels(count: int = 7) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def _batches(pixels: Tensor, size: int) -> list[Tensor]:
    return list(torch.split(pixels, size))


def _hook(encoder: Encoder, layer: int, change: Callable[[Tensor], object]) -> Any:
    """Let `change` edit the patches, (N, L, D), that a block puts out."""
    blocks: Any = encoder.vit.blocks

    def edit(_: Any, __: Any, tokens_NTD: Tensor) -> Tensor:
        tokens_NTD = tokens_NTD.clone()
        change(encoder.patches(tokens_NTD))
        return tokens_NTD

    return blocks[layer].register_forward_hook(edit)


def _plant(encoder: Encoder, layer: int, *places: int, size: float = 60.0) -> Any:
    """Make the tokens at some places large, in all channels, in every image."""

    def change(patches_NLD: Tensor) -> None:
        direction_D = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
        for place in places:
            patches_NLD[:, place] += size * direction_D

    return _hook(encoder, layer, change)


class _Constant(ExtraTokens):
    """Three tokens of a constant."""

    count = 3

    def enter(self, tokens_NLD: Tensor) -> Tensor:
        return torch.cat([tokens_NLD, torch.full_like(tokens_NLD[:, :3], 0.2)], dim=1)


def test_an_encoder_without_outliers_is_a_result() -> None:
    found = probe(_encoder(), [_pixels()])
    assert found.verdict == "no outliers in this encoder"
    assert found.outlier_layers == ()
    assert found.images == 7
    assert [layer.layer for layer in found.layers] == list(range(DEPTH))
    assert found.not_finite == (0,) * DEPTH
    assert not any(map(any, found.positions))


@pytest.mark.parametrize("kind", KINDS)
def test_planted_outliers_are_found_where_they_are(kind: str) -> None:
    encoder = _encoder(kind)
    _plant(encoder, 2, 3, 17)
    found = probe(encoder, [_pixels()])
    assert found.verdict == "outliers"
    assert found.outlier_layers == (2, 3)
    for layer in found.layers[:2]:
        assert layer.share_above_3x == layer.images_above_3x == 0
        assert layer.max_over_median < 3
    for layer in found.layers[2:]:
        assert layer.share_above_3x == layer.share_above_5x == pytest.approx(2 / PATCHES)
        assert layer.images_above_3x == layer.images_above_5x == 1
        assert layer.quantiles[-1] > 5
    assert found.shown_layer in (2, 3)
    counts = torch.tensor(found.positions).flatten()
    assert counts.nonzero()[:, 0].tolist() == [3, 17]
    assert counts.max() == 7


def test_an_outlier_in_one_image_is_not_averaged_away() -> None:
    encoder = _encoder()
    _hook(encoder, 1, lambda patches: patches[0, 5].add_(50))
    layer = probe(encoder, _batches(_pixels(4), 4)).layers[1]
    assert layer.images_above_3x == 0.25
    assert layer.share_above_3x == pytest.approx(1 / (4 * PATCHES))


def test_the_verdict_needs_enough_tokens_in_enough_images() -> None:
    layer = probe(_encoder(), [_pixels(1)]).layers[0]
    few = {"share_above_3x": encoder_records.LEAST_TOKENS, "images_above_3x": encoder_records.LEAST_IMAGES}
    assert layer.model_copy(update=few).has_outliers
    assert not layer.model_copy(update=few | {"share_above_3x": 0.9e-4}).has_outliers
    assert not layer.model_copy(update=few | {"images_above_3x": 0.009}).has_outliers


def test_a_channel_that_is_large_everywhere_is_no_token_outlier() -> None:
    encoder = _encoder()
    _hook(encoder, 1, lambda patches: patches[..., 9].add_(300))
    layer = probe(encoder, [_pixels()]).layers[1]
    assert not layer.has_outliers
    assert layer.large_channels == (9,)
    assert layer.channel_share > 0.95


def test_a_token_that_is_large_in_one_channel_makes_no_large_channel() -> None:
    encoder = _encoder()
    _hook(encoder, 1, lambda patches: patches[:, 4, 9].add_(3000))
    layer = probe(encoder, [_pixels()]).layers[1]
    assert layer.has_outliers
    assert layer.large_channels == ()
    assert layer.channel_share > 0.95


def test_quantiles_are_those_of_all_tokens() -> None:
    encoder = _encoder()
    _plant(encoder, 2, 3)
    relative: list[Tensor] = []

    def watch(layer: int, tokens_NTD: Tensor) -> None:
        norms_NL = encoder.patches(tokens_NTD).norm(dim=-1)
        relative.append(norms_NL / norms_NL.quantile(0.5, dim=1, keepdim=True))

    encoder(_pixels(40), watch)
    for layer, values in zip(probe(encoder, _batches(_pixels(40), 16)).layers, relative, strict=True):
        for share, quantile in zip(encoder_records.QUANTILES, layer.quantiles, strict=True):
            ordered = values.flatten().sort().values
            assert quantile == pytest.approx(float(ordered[int(share * len(ordered) - 1e-9)]), rel=2e-3)


def _weights_by_hand(encoder: Encoder, pixels: Tensor) -> list[Tensor]:
    """softmax(q k^T / sqrt(E)) of every block, (N, H, T, T), from its own qkv."""
    weights: list[Tensor] = []

    def keep(module: Any, inputs: tuple[Tensor], _: Tensor) -> None:
        tokens_NTD = inputs[0]
        qkv = module.qkv(tokens_NTD).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        weights.append((qkv[0] @ qkv[1].transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1))

    blocks: Any = encoder.vit.blocks
    handles = [block.attn.register_forward_hook(keep) for block in blocks]
    encoder(pixels)
    for handle in handles:
        handle.remove()
    return weights


@pytest.mark.parametrize("numbers_at_once", [1, 3 * 32**2, 2**24])
def test_attention_received_is_the_softmax_and_sums_to_one(
    monkeypatch: pytest.MonkeyPatch, numbers_at_once: int
) -> None:
    monkeypatch.setattr(attention_module, "NUMBERS_AT_ONCE", numbers_at_once)
    encoder = _encoder("registers")
    _plant(encoder, 1, 3, 17, size=15.0)
    encoder.extra = _Constant()
    pixels = _pixels(5)
    layers = probe(encoder, _batches(pixels, 2)).layers
    for layer, weights_NHTT in zip(layers, _weights_by_hand(encoder, pixels), strict=True):
        received_T = weights_NHTT.double().mean(dim=(0, 1, 2))
        shares = layer.attention
        assert shares is not None
        assert shares.class_token == pytest.approx(float(received_T[0]), rel=1e-5)
        assert shares.registers == pytest.approx(float(received_T[1:3].sum()), rel=1e-5)
        assert shares.patches == pytest.approx(float(received_T[3 : 3 + PATCHES].sum()), rel=1e-5)
        assert shares.extra == pytest.approx(float(received_T[3 + PATCHES :].sum()), rel=1e-5)
        total = sum(filter(None, (shares.class_token, shares.registers, shares.patches, shares.extra)))
        assert total == pytest.approx(1, abs=1e-6)
        if layer.layer == 0:
            assert shares.outliers is None
        elif layer.layer == 1:
            assert shares.outliers == 0
            assert shares.outliers_over_share is None
        else:
            outliers = received_T[[6, 20]].sum()
            assert shares.outliers == pytest.approx(float(outliers), rel=1e-5)
            patches_NT = weights_NHTT.double().mean(dim=(1, 2))
            ratio = (patches_NT[:, [6, 20]].mean(dim=1) / patches_NT[:, 3 : 3 + PATCHES].mean(dim=1)).mean()
            assert shares.outliers_over_share == pytest.approx(float(ratio), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_token_has_its_share_or_none(kind: str) -> None:
    encoder = _encoder(kind)
    plain = probe(encoder, [_pixels(2)])
    encoder.extra = _Constant()
    extended = probe(encoder, [_pixels(2)])
    assert (plain.extra_tokens, extended.extra_tokens) == (0, 3)
    for found in (plain, extended):
        for layer in found.layers:
            shares = layer.attention
            assert shares is not None
            parts = (shares.class_token, shares.registers, shares.extra)
            norms = (layer.class_token_over_median, layer.registers_over_median, layer.extra_over_median)
            expected = (kind != "plain", kind in ("registers", "rotary"), found is extended)
            assert tuple(part is not None for part in parts) == expected
            assert tuple(norm is not None for norm in norms) == expected
            assert shares.patches + sum(filter(None, parts)) == pytest.approx(1, abs=1e-6)


def test_the_norms_of_other_tokens_are_in_units_of_the_patches() -> None:
    encoder = _encoder("registers")
    encoder.extra = _Constant()
    tokens: list[Tensor] = []
    encoder(_pixels(3), lambda _, tokens_NTD: tokens.append(tokens_NTD))
    for layer, tokens_NTD in zip(probe(encoder, [_pixels(3)]).layers, tokens, strict=True):
        norms_NT = tokens_NTD.norm(dim=-1)
        relative_NT = norms_NT / norms_NT[:, 3 : 3 + PATCHES].quantile(0.5, dim=1, keepdim=True)
        assert layer.class_token_over_median == pytest.approx(float(relative_NT[:, 0].mean()), rel=1e-5)
        assert layer.registers_over_median == pytest.approx(float(relative_NT[:, 1:3].amax(1).mean()), rel=1e-5)
        assert layer.extra_over_median == pytest.approx(float(relative_NT[:, 3 + PATCHES :].amax(1).mean()), rel=1e-5)


def test_attention_that_cannot_be_seen_is_absent() -> None:
    set_fused_attn(enable=False)
    try:
        encoder = _encoder()
    finally:
        set_fused_attn(enable=True)
    found = probe(encoder, [_pixels(2)])
    assert all(layer.attention is None for layer in found.layers)
    assert "att." not in report(found).splitlines()[2]


def test_the_probe_leaves_the_features_alone() -> None:
    encoder = _encoder()
    before = encoder(_pixels(2)).normed
    probe(encoder, [_pixels(2)])
    assert torch.equal(encoder(_pixels(2)).normed, before)


def _numbers(layer: LayerOutliers) -> dict[str, Any]:
    numbers = layer.model_dump(exclude={"attention", "quantiles", "large_channels"})
    numbers |= {f"attention {name}": value for name, value in dict(layer.attention or ()).items()}
    return {name: value for name, value in numbers.items() if value is not None}


@pytest.mark.parametrize("size", [1, 3])
def test_batches_of_any_size_give_the_same_numbers(size: int) -> None:
    encoder = _encoder("registers")
    _plant(encoder, 2, 3, 17)
    encoder.extra = _Constant()
    whole, parts = probe(encoder, [_pixels()]), probe(encoder, iter(_batches(_pixels(), size)))
    for one, other in zip(whole.layers, parts.layers, strict=True):
        assert _numbers(other) == pytest.approx(_numbers(one), rel=1e-5)
        assert other.quantiles == pytest.approx(one.quantiles, rel=2e-3)
    assert parts.positions == whole.positions
    assert parts.images == whole.images
    assert len(parts.examples) == len(whole.examples) == 6
    for a, b in zip(whole.examples, parts.examples, strict=True):
        assert a.thumbnail == b.thumbnail
        assert torch.tensor(a.norms).allclose(torch.tensor(b.norms), rtol=2e-3)


def test_norms_that_are_not_finite_are_said_and_left_out() -> None:
    encoder = _encoder()
    sane = probe(encoder, [_pixels(5)[1:]])
    _hook(encoder, 2, lambda patches: patches[0, 0].fill_(torch.inf))
    found = probe(encoder, [_pixels(5)])
    assert found.not_finite == (0, 0, 1, 1)
    assert [layer.images for layer in found.layers] == [5, 5, 4, 4]
    for layer, other in zip(found.layers[2:], sane.layers[2:], strict=True):
        assert _numbers(layer) == pytest.approx(_numbers(other), rel=1e-5)
    assert "no finite numbers are left out: 1 image at worst, layers 2 to 3" in report(found)


def test_layers_without_any_finite_norm_have_no_statistics(tmp_path: Path) -> None:
    encoder = _encoder()
    _hook(encoder, 2, lambda patches: patches.fill_(torch.nan))
    found = probe(encoder, [_pixels(2), _pixels(1)], shown_layer=3)
    assert [layer.layer for layer in found.layers] == [0, 1]
    assert found.not_finite == (0, 0, 3, 3)
    assert all(example.norms == () for example in found.examples)
    draw(found, None, tmp_path / "figure.png")
    _hook(encoder, 0, lambda patches: patches.fill_(torch.nan))
    nothing = probe(encoder, [_pixels(2)])
    assert nothing.verdict == "not measured"
    assert nothing.layers == ()
    assert "no norm is a finite number" in report(nothing)
    with pytest.raises(UserError, match="no layer of Tiny, class can be drawn"):
        draw(nothing, None, tmp_path / "nothing.png")
    with pytest.raises(UserError, match="no layer of Tiny, class can be drawn"):
        draw(found, nothing, tmp_path / "nothing.png")


def test_what_was_found_survives_json() -> None:
    encoder = _encoder("registers")
    _plant(encoder, 2, 3)
    found = probe(encoder, [_pixels()])
    assert EncoderOutliers.model_validate_json(found.model_dump_json()) == found
    picture = Image.open(io.BytesIO(base64.b64decode(found.examples[0].thumbnail)))
    assert picture.size == (SIDE, SIDE)


def test_images_of_other_channels_have_thumbnails() -> None:
    definition = _definition("plain").model_copy(update={"channels": 1, "mean": (0.5,), "std": (0.5,)})
    vit = VisionTransformer(
        SIDE, PATCH, in_chans=1, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, class_token=False, global_pool=""
    )
    found = probe(Encoder(definition, vit), [_pixels(2)[:, :1]])
    assert Image.open(io.BytesIO(base64.b64decode(found.examples[0].thumbnail))).mode == "L"


def test_an_encoder_that_ends_early_is_probed_until_there() -> None:
    encoder = _encoder()
    encoder.output_layer = 2
    assert [layer.layer for layer in probe(encoder, [_pixels(2)]).layers] == [0, 1]


def test_before_and_after_are_compared_layer_by_layer() -> None:
    encoder = _encoder()
    handle = _plant(encoder, 2, 3)
    before = probe(encoder, [_pixels(2)])
    handle.remove()
    after = probe(encoder, [_pixels(2)], shown_layer=before.shown_layer)
    assert after.shown_layer == before.shown_layer
    gaps = difference(before, after)
    assert [gap.layer for gap in gaps] == list(range(DEPTH))
    assert [(gap.before, gap.after) for gap in gaps] == [
        (a.max_over_median, b.max_over_median) for a, b in zip(before.layers, after.layers, strict=True)
    ]
    assert gaps[2].before > 5 > gaps[2].after
    assert "before: Tiny, class, 2 images: outliers (layers 2 to 3)" in compared(before, after)
    assert "after:  Tiny, class, 2 images: no outliers in this encoder" in compared(before, after)


def test_the_report_is_a_table_with_the_verdict_on_top() -> None:
    encoder = _encoder("registers")
    _plant(encoder, 3, 3)
    encoder.extra = _Constant()
    lines = report(probe(encoder, [_pixels(2)])).splitlines()
    assert lines[0] == "Tiny, registers + 3 test-time registers, 2 images: outliers (layer 3)"
    assert lines[2].split()[:2] == ["layer", "median"]
    start = lines[2].index(">3x")
    assert [line[start:].split("  ")[0] for line in lines[3 : 3 + DEPTH]] == ["0 %", "0 %", "0 %", "4 %"]


def test_patches_that_are_outliers_do_not_count_as_changed() -> None:
    plain = torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(0))
    outliers = torch.zeros(3, 10, dtype=torch.bool)
    outliers[:, 4] = True
    changed = plain.clone()
    changed[:, 4] *= -7
    same = change_of_patches(plain, changed, outliers)
    assert same is not None
    assert same.images == 3
    assert same.cosine == pytest.approx(1)
    assert same.relative_difference == 0
    changed[0] = 2 * plain[0]
    changed[1, 0] = -plain[1, 0]
    moved = change_of_patches(plain, changed, outliers)
    assert moved is not None
    assert moved.cosine == pytest.approx((1 + 7 / 9 + 1) / 3, abs=1e-6)
    assert moved.relative_difference == pytest.approx((1 + 2 / 9 + 0) / 3, abs=1e-6)


def test_images_that_are_not_finite_have_no_change() -> None:
    plain, outliers = torch.ones(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool)
    changed = plain.clone()
    changed[0, 0, 0] = torch.nan
    kept = change_of_patches(plain, changed, outliers)
    assert kept is not None
    assert kept.images == 1
    assert change_of_patches(plain, plain * torch.nan, outliers) is None


def test_changes_of_batches_are_pooled_by_their_images() -> None:
    one = PatchChange(images=1, cosine=1.0, relative_difference=0.0)
    three = PatchChange(images=3, cosine=0.6, relative_difference=0.4)
    both = pooled([one, None, three])
    assert both is not None
    assert both.images == 4
    assert both.cosine == pytest.approx(0.7)
    assert both.relative_difference == pytest.approx(0.3)
    assert pooled([None]) is None


@pytest.mark.parametrize("kind", KINDS)
def test_zeroing_outliers_is_what_it_says(kind: str) -> None:
    encoder = _encoder(kind)
    _plant(encoder, 1, 3, 17)
    pixels = _pixels(4)
    mask = outlier_mask(encoder, pixels, layer=3)
    assert mask[0].nonzero()[:, 0].tolist() == [3, 17]
    found = zeroing_control(encoder, pixels, 3)
    plain = encoder(pixels).normed
    handle = _hook(encoder, 1, lambda patches: patches.index_fill_(1, torch.tensor([3, 17]), 0))
    expected = change_of_patches(plain, encoder(pixels).normed, mask)
    handle.remove()
    assert found is not None
    assert expected is not None
    assert found.images == 4
    assert found.cosine == pytest.approx(expected.cosine, rel=1e-6)
    assert found.relative_difference == pytest.approx(expected.relative_difference, rel=1e-6)
    assert found.relative_difference > 0
    assert torch.equal(encoder(pixels).normed, plain)


def test_each_image_is_zeroed_where_its_own_outliers_appear() -> None:
    pixels = _pixels(3)
    mixed, early, late = _encoder(), _encoder(), _encoder()
    _hook(mixed, 1, lambda patches: patches[:1, 6].add_(40))
    _hook(mixed, 2, lambda patches: patches[1:, 6].add_(40))
    _hook(early, 1, lambda patches: patches[:, 6].add_(40))
    _hook(late, 2, lambda patches: patches[:, 6].add_(40))
    together = zeroing_control(mixed, pixels, 3)
    apart = pooled([zeroing_control(early, pixels[:1], 3), zeroing_control(late, pixels[1:], 3)])
    assert together is not None
    assert apart is not None
    assert together.images == apart.images == 3
    assert together.cosine == pytest.approx(apart.cosine, rel=1e-5)
    assert together.relative_difference == pytest.approx(apart.relative_difference, rel=1e-4)


def test_without_outliers_there_is_nothing_to_zero() -> None:
    assert zeroing_control(_encoder(), _pixels(2), 3) is None


def test_only_images_with_outliers_are_controlled() -> None:
    encoder = _encoder()
    _hook(encoder, 1, lambda patches: patches[0, 5].add_(50))
    found = zeroing_control(encoder, _pixels(3), 2)
    assert found is not None
    assert found.images == 1


@pytest.mark.parametrize("kind", ["plain", "registers"])
def test_the_figure_is_a_picture(tmp_path: Path, kind: str) -> None:
    encoder = _encoder(kind)
    _plant(encoder, 2, 3, 17)
    before = probe(encoder, [_pixels(2)])
    encoder.extra = _Constant()
    after = probe(encoder, [_pixels(2)], shown_layer=before.shown_layer)
    sizes = []
    for name, then in (("one.png", None), ("two.png", after)):
        draw(before, then, tmp_path / "folder" / name)
        with Image.open(tmp_path / "folder" / name) as picture:
            assert picture.format == "PNG"
            sizes.append(picture.size)
            assert len(set(picture.convert("RGB").resize((200, 200)).tobytes())) > 50
    assert sizes[0][0] == sizes[1][0] == 1800
    assert 1000 < sizes[0][1] < sizes[1][1] < 2000
