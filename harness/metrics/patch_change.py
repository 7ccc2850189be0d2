"""How far the patches that are no outliers move: when an encoder gets registers, and when its outliers are zeroed."""

# N images, L patches, D width, C channels, H height, W width of the pixels

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.encoder import Encoder, Features
from harness.encoder_records import OUTLIER, PatchChange
from harness.metrics.token_norms import relative_norms

IsOutlier = Callable[[Tensor], Tensor]


def change_of_patches(plain_NLD: Tensor, changed_NLD: Tensor, outliers_NL: Tensor) -> PatchChange | None:
    """How far patches moved that `outliers_NL`, a mask, does not name; per image first.

    Images that have no such patch, or a value that is not finite, are left out; None where none is left.
    """
    plain_NLD, changed_NLD = plain_NLD.float(), changed_NLD.float()
    others_NL = (~outliers_NL).float()
    cosine_NL = functional.cosine_similarity(plain_NLD, changed_NLD, dim=-1)
    norm_NL = plain_NLD.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    difference_NL = (changed_NLD - plain_NLD).norm(dim=-1) / norm_NL
    both_2N = torch.stack(
        [(values * others_NL).sum(dim=1) / others_NL.sum(dim=1) for values in (cosine_NL, difference_NL)]
    )
    kept_2N = both_2N[:, both_2N.isfinite().all(dim=0)].double()
    if not kept_2N.shape[1]:
        return None
    cosine, relative_difference = kept_2N.mean(dim=1).tolist()
    return PatchChange(images=kept_2N.shape[1], cosine=cosine, relative_difference=relative_difference)


def above_median(patches_NLD: Tensor, times: float = OUTLIER) -> Tensor:
    """Which patches' norms exceed so many medians of their image, (N, L)."""
    return relative_norms(patches_NLD)[0] > times


def above_norm(threshold: float) -> IsOutlier:
    """The rule that asks for norms above a threshold."""
    return lambda patches_NLD: patches_NLD.float().norm(dim=-1) > threshold


@torch.no_grad()
def outlier_mask(encoder: Encoder, pixels_NCHW: Tensor, layer: int, is_outlier: IsOutlier = above_median) -> Tensor:
    """Which patches are outliers at a layer's output, (N, L)."""
    return _above(encoder, pixels_NCHW, is_outlier)[1][layer]


@torch.no_grad()
def zeroing_control(
    encoder: Encoder, pixels_NCHW: Tensor, detect_layer: int, is_outlier: IsOutlier = above_median
) -> PatchChange | None:
    """What merely zeroing outliers does to the other patches of the encoder's normed features.

    The outliers are those of `detect_layer`.  They are set to zero, image by image, in the output of the first layer
    at which one of them is one.  Images without outliers, of which nothing would change, are left
    out; None where no image has any.
    """
    plain, above = _above(encoder, pixels_NCHW, is_outlier)
    outliers_NL = above[detect_layer]
    touched_N = outliers_NL.any(dim=1)
    if not touched_N.any():
        return None
    with _zeroed(encoder, _where_they_appear(above[: detect_layer + 1])):
        zeroed: Features = encoder(pixels_NCHW)
    return change_of_patches(plain.normed[touched_N], zeroed.normed[touched_N], outliers_NL[touched_N])


def _above(encoder: Encoder, pixels_NCHW: Tensor, is_outlier: IsOutlier) -> tuple[Features, list[Tensor]]:
    """An encoder's features, and its outliers at each layer."""
    above: list[Tensor] = []

    def watch(layer: int, tokens_NTD: Tensor) -> None:  # noqa: ARG001
        above.append(is_outlier(encoder.patches(tokens_NTD)))

    features: Features = encoder(pixels_NCHW, watch)
    return features, above


def _where_they_appear(above: list[Tensor]) -> list[Tensor]:
    """For each layer the outliers, (N, L), of those images in which the last layer's outliers first appear there."""
    outliers_NL = above[-1]
    pending_N1 = outliers_NL.any(dim=1, keepdim=True)
    found: list[Tensor] = []
    for above_NL in above:
        here_N1 = pending_N1 & (above_NL & outliers_NL).any(dim=1, keepdim=True)
        found.append(outliers_NL & here_N1)
        pending_N1 = pending_N1 & ~here_N1
    return found


@contextmanager
def _zeroed(encoder: Encoder, masks: list[Tensor]) -> Iterator[None]:
    """An encoder whose block i, for each of `masks`, puts out zero at the patches that the mask names."""
    blocks: Any = encoder.vit.blocks
    with ExitStack() as hooks:
        for layer, mask_NL in enumerate(masks):

            def zero(_: Any, __: Any, tokens_NTD: Tensor, mask_NL: Tensor = mask_NL) -> Tensor:
                tokens_NTD = tokens_NTD.clone()
                encoder.patches(tokens_NTD).masked_fill_(mask_NL[..., None], 0)
                return tokens_NTD

            hooks.callback(blocks[layer].register_forward_hook(zero).remove)
        yield
