"""Vision models as feature extractors: DINOv2 for FD-DINOv2, CLIP for CMMD, and any model of timm's."""

# N batch, C channels, H height, W width, D width of a model, E width of an embedding

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from harness.comparability import ExtractorIdentity
from harness.encoder_names import from_official
from harness.encoder_weights import encoder_of
from harness.encoders import ENCODERS, EncoderDefinition
from harness.errors import UserError
from harness.extractor import Extractor
from harness.extractor_weights import FLAG, find_released
from harness.extractors import TIMM, ExtractorDefinition
from harness.images import Pixels
from harness.released import Released
from harness.tiled_extractor import TILE, Seen, TiledExtractor, in_colour
from harness.weights import load_official

CLIP_L_336 = ENCODERS["clip-l"].model_copy(update={"image_size": 336, "table": 24})
# CLIP's projection, under HuggingFace's name and timm's.
PROJECTIONS = ("visual_projection.weight", "head.weight")
# What DINOv2's code adds to a grid's side before it resizes its position table.
GRID_OFFSET = 0.1


def open_dinov2(
    definition: ExtractorDefinition,
    weights: str | None,
    device: torch.device,
    tile: int = TILE,
    encoder: EncoderDefinition = ENCODERS["dinov2-l"],
) -> Extractor:
    """DINOv2's class token after the final norm, (N, D), as dgm-eval and EDM2's reference ("pil") take it.

    Images are resized by Pillow, bicubic, to the side of the encoder's input, rounded to 8 bits, and normalised.  The
    position table is resized as DINOv2's own code does, which is not how HuggingFace's and timm's do.
    Raises UserError where the weights are not there or not this network's.
    """
    released = find_released(definition, weights)
    at_table = encoder.model_copy(update={"image_size": encoder.table * encoder.patch})
    state = from_official(at_table, released.state)
    if "pos_embed" in state:
        state["pos_embed"] = _table_as_dinov2(state["pos_embed"], encoder)
    vit = _network(definition, encoder, released, state).to(device)
    side, normalise = encoder.image_size, _normaliser(encoder)

    def prepare(pixels_CHW: Pixels) -> Tensor:
        resized = _image(pixels_CHW).resize((side, side), Image.Resampling.BICUBIC)
        return normalise(_unit(np.asarray(resized).transpose(2, 0, 1)))

    def network(images_NCHW: Tensor) -> Seen:
        return Seen(vit.forward_features(images_NCHW)[:, 0])

    version = f"timm {timm.__version__}, {side} x {side} bicubic (Pillow), class token"
    return TiledExtractor(_identity(definition, version, released), prepare, network, device, tile)


def open_clip(
    definition: ExtractorDefinition,
    weights: str | None,
    device: torch.device,
    tile: int = TILE,
    encoder: EncoderDefinition = CLIP_L_336,
) -> Extractor:
    """CLIP's embedding of images, (N, E), of length 1, as the CMMD of arXiv 2401.09603 takes it.

    Images are resized by torch, bicubic, without antialias and without clamping.
    Raises UserError where the weights are not there, not this network's, or without the projection.
    """
    released = find_released(definition, weights)
    vit = _network(definition, encoder, released, from_official(encoder, released.state)).to(device)
    projection_ED = _projection(definition, released).to(device)
    side, normalise = encoder.image_size, _normaliser(encoder)

    def prepare(pixels_CHW: Pixels) -> Tensor:
        images_1CHW = _unit(in_colour(pixels_CHW))[None]
        return normalise(functional.interpolate(images_1CHW, (side, side), mode="bicubic", align_corners=False)[0])

    def network(images_NCHW: Tensor) -> Seen:
        embedded_NE = functional.linear(vit.forward_features(images_NCHW)[:, 0], projection_ED)
        return Seen(functional.normalize(embedded_NE, dim=1))

    version = f"timm {timm.__version__}, {side} x {side} bicubic (torch), projected to length 1"
    return TiledExtractor(_identity(definition, version, released), prepare, network, device, tile)


def open_timm(
    definition: ExtractorDefinition, weights: str | None, device: torch.device, tile: int = TILE
) -> Extractor:
    """The pooled features of any model of timm's before its classifier, images resized and cropped as timm says.

    Raises UserError for a model that timm does not have, and where the weights are not there or not its own.
    """
    architecture = definition.name.removeprefix(TIMM)
    published = _published(architecture)
    sources = (f"{published.hf_hub_id}/{published.hf_hub_filename or 'model.safetensors'}",) * bool(published.hf_hub_id)
    released = find_released(definition.model_copy(update={"sources": sources}), weights)
    with torch.random.fork_rng(devices=[]):
        model: Any = timm.create_model(architecture, pretrained=False, num_classes=0).eval()
    _load(definition, model, released, _without_classifier(released.state, published.classifier))
    data: Any = timm.data
    config = data.resolve_model_data_config(model)
    transform = data.create_transform(**config, is_training=False)
    model.to(device)

    def prepare(pixels_CHW: Pixels) -> Tensor:
        prepared: Tensor = transform(_image(pixels_CHW))
        return prepared

    def network(images_NCHW: Tensor) -> Seen:
        return Seen(model.forward_head(model.forward_features(images_NCHW), pre_logits=True))

    size = " x ".join(map(str, config["input_size"][1:]))
    version = f"timm {timm.__version__}, {size} {config['interpolation']}, {config['crop_mode']} {config['crop_pct']}"
    return TiledExtractor(_identity(definition, version, released), prepare, network, device, tile)


def _table_as_dinov2(table_1ND: Tensor, encoder: EncoderDefinition) -> Tensor:
    """A position table with its class token's row first, resized with DINOv2's offset; another one as it is."""
    old, new = encoder.table, encoder.grid
    if old == new or table_1ND.shape[:2] != (1, 1 + old**2):
        return table_1ND
    patches = table_1ND[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scale = (new + GRID_OFFSET) / old
    resized = functional.interpolate(patches, scale_factor=(scale, scale), mode="bicubic", align_corners=False)
    return torch.cat([table_1ND[:, :1], resized.flatten(2).mT], dim=1)


def _network(
    definition: ExtractorDefinition, encoder: EncoderDefinition, released: Released, state: Mapping[str, Tensor]
) -> Any:
    try:
        return encoder_of(encoder, state).vit
    except UserError as error:
        raise _other(definition, released, error) from error


def _load(definition: ExtractorDefinition, model: Any, released: Released, state: Mapping[str, Tensor]) -> None:
    try:
        load_official(model, state, {})
    except UserError as error:
        raise _other(definition, released, error) from error


def _other(definition: ExtractorDefinition, released: Released, error: UserError) -> UserError:
    return UserError(
        f"{released.name} is no {definition.name}: {error.problem}", f"give {FLAG} the file that is published for it"
    )


def _projection(definition: ExtractorDefinition, released: Released) -> Tensor:
    for key in PROJECTIONS:
        if key in released.state:
            return released.state[key]
    raise UserError(
        f"{released.name} holds no projection ({' or '.join(PROJECTIONS)}): {definition.name} embeds images with it",
        f"give {FLAG} a file of the whole model, such as {definition.sources[0]}",
    )


def _published(architecture: str) -> Any:
    """What timm says of a model's published weights.  Raises UserError where it has no such model, or not for RGB."""
    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        guess = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists what it has"
        raise UserError(f"there is no extractor {TIMM}{architecture}: timm has no model of that name", guess)
    tags = [model.partition(".")[2] for model in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise UserError(f"timm has no weights {tag} of {name}", f"known: {', '.join(tags) or 'none'}")
    return timm.get_pretrained_cfg(architecture)


def _without_classifier(state: Mapping[str, Tensor], classifier: Any) -> dict[str, Tensor]:
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    return {key: value for key, value in state.items() if not key.startswith(tuple(f"{name}." for name in names))}


def _image(pixels_CHW: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(in_colour(pixels_CHW).transpose(1, 2, 0)))


def _unit(pixels_CHW: Pixels) -> Tensor:
    return torch.from_numpy(pixels_CHW.astype(np.float32)) / 255


def _normaliser(encoder: EncoderDefinition) -> Callable[[Tensor], Tensor]:
    mean, std = (torch.tensor(each)[:, None, None] for each in (encoder.mean, encoder.std))
    return lambda images_CHW: (images_CHW - mean) / std


def _identity(definition: ExtractorDefinition, version: str, released: Released) -> ExtractorIdentity:
    return ExtractorIdentity(name=definition.name, version=version, weights_sha256=released.sha256)
