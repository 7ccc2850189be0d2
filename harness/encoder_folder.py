"""Definitions of encoders that no list names: those of a local folder, and any vision transformer of timm's."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.encoders import ENCODERS, HALF, IMAGENET_MEAN, IMAGENET_STD, EncoderDefinition, Family, find
from harness.errors import UserError
from harness.files import read_settings

if TYPE_CHECKING:
    from types import ModuleType

CONFIG_FILE, PREPROCESSOR_FILE = "config.json", "preprocessor_config.json"
OWN_KEY = "dsr_bench"
TIMM = "timm/"
NEAR = 0.75

_Settings = Mapping[str, Any]

_FAMILIES: Mapping[str, Family] = {
    "siglip": "siglip",
    "siglip_vision_model": "siglip",
    "siglip2": "siglip",
    "siglip2_vision_model": "siglip",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov3",
    "vit_mae": "mae",
    "clip": "clip",
    "clip_vision_model": "clip",
}
# A config.json leaves out what transformers takes as given.
_GIVEN: _Settings = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "mlp_ratio": 4,
    "num_register_tokens": 0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
_GIVEN_OF: Mapping[str, _Settings] = {
    "siglip": {"hidden_act": "gelu_pytorch_tanh"},
    "dinov2": {"patch_size": 14},
    "dinov2_with_registers": {"num_register_tokens": 4},
    "dinov3_vit": {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_attention_heads": 6,
        "layer_norm_eps": 1e-5,
    },
    "vit_mae": {"layer_norm_eps": 1e-12},
    "clip": {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
}
# What our networks always have, under transformers' names.
_MUST: _Settings = {
    "qkv_bias": True,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "rope_theta": 100.0,
}
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu-tanh",
    "quick_gelu": "quick-gelu",
    "silu": "silu",
    "swish": "silu",
}
_MODULES = {"vision_transformer", "eva"}
# Of what timm was told when a model was made, what a definition holds, and what only its head needs.
_KEPT_ARGUMENTS = {"img_size", "in_chans"}
_HEAD_ARGUMENTS = {"num_classes", "global_pool", "dynamic_img_size", "drop_rate", "drop_path_rate"}
_ANOTHER = (
    "give the folder of a SigLIP, DINOv2, DINOv3, MAE or CLIP model in HuggingFace's format, or of a ViT in timm's"
)


def encoder_named(text: str) -> EncoderDefinition:
    """The encoder that a user means: a name of ours, a local folder, or a vision transformer of timm's.

    Raises UserError where it is none of them.
    """
    folder = folder_of(text)
    if folder is not None:
        return definition_in(folder)
    if not text.startswith(TIMM) and difflib.get_close_matches(text.replace("_", "-"), ENCODERS, cutoff=NEAR):
        return find(text)
    if "/" in text.removeprefix(TIMM) or "_" not in text:
        raise UserError(
            f"there is no encoder {text}",
            f"known: {', '.join(ENCODERS)}; or give a folder with a config.json, or a vision transformer of timm's",
        )
    definition = timm_definition(text.removeprefix(TIMM))
    return definition.model_copy(update={"name": f"{TIMM}{text.removeprefix(TIMM)}"})


def folder_of(text: str) -> Path | None:
    """The local folder that a user means by an encoder; None for a name, which goes before a folder called so."""
    folder = Path(text).expanduser()
    return folder if text not in ENCODERS and folder.is_dir() else None


def definition_in(folder: Path) -> EncoderDefinition:
    """What a folder's config.json describes: transformers' format, timm's, or our own, in which `save` writes.

    It takes the folder's name, and the mean and the deviation of preprocessor_config.json where that is there.
    Raises UserError where there is no config.json, where it is damaged, or where it describes another network.
    """
    config = read_settings(folder / CONFIG_FILE, _ANOTHER)
    try:
        if OWN_KEY in config:
            return EncoderDefinition.model_validate(config[OWN_KEY])
        if "architecture" in config:
            return _of_timm_folder(folder, config)
        return _of_transformers(folder, config)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(f"{folder / CONFIG_FILE} describes no encoder: {reason}", _ANOTHER) from error


def timm_definition(architecture: str) -> EncoderDefinition:
    """Any VisionTransformer or Eva of timm's, by its name there: "vit_base_patch16_224", or with ".tag".

    Raises UserError for a name that timm does not have, and for a network of another kind.
    """
    timm = _timm()
    published = _pretrained(timm, architecture)
    size = _side(published.input_size[1:], f"timm's {architecture}")
    definition = _of_timm(architecture, architecture, size, published.input_size[0])
    name = f"{published.architecture}.{published.tag}" if published.hf_hub_id else ""
    return definition.model_copy(update={"timm": name, "mean": published.mean, "std": published.std})


def _of_transformers(folder: Path, config: _Settings) -> EncoderDefinition:
    kind = str(config.get("model_type") or "no model")
    if kind not in _FAMILIES:
        raise UserError(f"{folder / CONFIG_FILE} describes {kind}: no encoder that is known", _ANOTHER)
    family, stated = _FAMILIES[kind], _vision(config)
    if kind.startswith("siglip2") and "image_size" not in stated:
        raise UserError(
            f"{folder / CONFIG_FILE} describes a SigLIP2 of no fixed resolution (NaFlex)",
            "give one of a fixed resolution, as google/siglip2-base-patch16-256 is",
        )
    settings = {**_GIVEN, **_GIVEN_OF.get(kind, _GIVEN_OF.get(family, {})), **stated}
    _require_ours(folder, settings)
    image_size, patch = (_side(settings[key], f"{folder}'s {key}") for key in ("image_size", "patch_size"))
    is_gated = bool(settings.get("use_gated_mlp" if family == "dinov3" else "use_swiglu_ffn"))
    mean, std = _statistics(folder, family)
    return EncoderDefinition(
        name=folder.resolve().name,
        family=family,
        channels=settings["num_channels"],
        image_size=image_size,
        patch=patch,
        width=settings["hidden_size"],
        depth=settings["num_hidden_layers"],
        heads=settings["num_attention_heads"],
        hidden=_hidden(settings, family, is_gated=is_gated),
        table=max(image_size // patch, 1),
        epsilon=settings["layer_norm_eps"],
        activation=_activation(folder, "silu" if is_gated and family == "dinov2" else settings["hidden_act"]),
        gated=is_gated,
        class_token=family != "siglip",
        registers=settings["num_register_tokens"],
        antialias=kind == "dinov2_with_registers",
        mean=mean,
        std=std,
    )


def _vision(config: _Settings) -> dict[str, Any]:
    """The settings of the vision tower, which lie within those of a model of two towers."""
    nested = [config.get(key) for key in ("vision_config", "vision_config_dict")]
    towers = [tower for tower in nested if isinstance(tower, dict)]
    if not towers:
        return dict(config)
    return {key: value for tower in towers for key, value in tower.items()}


def _require_ours(folder: Path, settings: _Settings) -> None:
    """Raise UserError where transformers would build a network that ours is not."""
    other = [
        f"{key} is {settings[key]}, not {value}" for key, value in _MUST.items() if settings.get(key, value) != value
    ]
    other += [
        f"{key} is {settings[key]}, not a number"
        for key, value in _GIVEN.items()
        if isinstance(value, int | float) and not isinstance(settings[key], int | float | list)
    ]
    width, heads = settings["hidden_size"], settings["num_attention_heads"]
    if not other and (heads < 1 or width % heads):
        other.append(f"a width of {width} does not divide into {heads} heads")
    if other:
        raise UserError(f"{folder / CONFIG_FILE} describes another network: {', '.join(other)}", _ANOTHER)


def _side(size: Any, title: str) -> int:
    """The side of a square, given as one number or two."""
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"{title} is {size}, not the side of a square", "give an encoder of square images and patches")
    side: int = sides.pop()
    return side


def _hidden(settings: _Settings, family: Family, *, is_gated: bool) -> int:
    if family != "dinov2":
        hidden: int = settings["intermediate_size"]
        return hidden
    whole = int(settings["hidden_size"] * settings["mlp_ratio"])
    # DINOv2's gated MLP keeps two thirds, rounded up to a multiple of eight.
    return (int(whole * 2 / 3) + 7) // 8 * 8 if is_gated else whole


def _activation(folder: Path, name: Any) -> Any:
    if name not in _ACTIVATIONS:
        raise UserError(
            f"{folder / CONFIG_FILE} has the activation {name}, known are {', '.join(_ACTIVATIONS)}", _ANOTHER
        )
    return _ACTIVATIONS[name]


def _statistics(folder: Path, family: Family) -> tuple[Any, Any]:
    """The mean and the deviation that the preprocessor says, else those that the family was trained with."""
    usual = {"siglip": (HALF, HALF), "clip": (ENCODERS["clip-b"].mean, ENCODERS["clip-b"].std)}
    mean, std = usual.get(family, (IMAGENET_MEAN, IMAGENET_STD))
    path = folder / PREPROCESSOR_FILE
    said = read_settings(path, _ANOTHER) if path.is_file() else {}
    return said.get("image_mean") or mean, said.get("image_std") or std


def _of_timm_folder(folder: Path, config: _Settings) -> EncoderDefinition:
    arguments, published = config.get("model_args") or {}, config.get("pretrained_cfg") or config
    unknown = sorted(set(arguments) - _KEPT_ARGUMENTS - _HEAD_ARGUMENTS)
    if unknown:
        raise UserError(
            f"{folder / CONFIG_FILE} changes timm's {config['architecture']}: {', '.join(unknown)}",
            "give a model that is as timm names it",
        )
    _pretrained(_timm(), config["architecture"])
    channels, *size = published.get("input_size") or (3, 224, 224)
    side = _side(arguments.get("img_size") or size, f"{folder}'s input_size")
    definition = _of_timm(folder.resolve().name, config["architecture"], side, arguments.get("in_chans") or channels)
    said = {key: tuple(published[key]) for key in ("mean", "std") if published.get(key)}
    return EncoderDefinition.model_validate({**definition.model_dump(), **said})


def _timm() -> "ModuleType":
    import timm

    return timm


def _pretrained(timm: "ModuleType", architecture: Any) -> Any:
    """What timm says of a model's published weights; UserError where it has no such vision transformer."""
    name, _, tag = str(architecture).partition(".")
    known = [model for module in sorted(_MODULES) for model in timm.list_models(module=module)]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        guess = f"did you mean {' or '.join(near)}?" if near else "timm.list_models('*vit*') lists what it has"
        raise UserError(f"there is no encoder {architecture}, and timm has no model of that name", guess)
    if name not in known:
        raise _no_transformer(name)
    tags = [model.partition(".")[2] for model in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise UserError(f"timm has no weights {tag} of {name}", f"known: {', '.join(tags) or 'none'}")
    return timm.get_pretrained_cfg(str(architecture))


def _of_timm(name: str, architecture: str, image_size: int, channels: int) -> EncoderDefinition:
    """The dimensions of a model of timm's, read off the model itself."""
    import torch
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    with torch.device("meta"):
        vit = _timm().create_model(
            architecture, pretrained=False, num_classes=0, img_size=image_size, in_chans=channels
        )
    has_place = all(hasattr(getattr(block, "mlp", None), "fc2") for block in vit.blocks)
    if type(vit) not in (VisionTransformer, Eva) or not has_place:
        raise _no_transformer(architecture)
    grid = vit.patch_embed.grid_size[0]
    norms = [norm for norm in (vit.norm, vit.fc_norm, vit.blocks[0].norm1) if hasattr(norm, "eps")]
    class_token = vit.cls_token is not None
    return EncoderDefinition(
        name=name,
        family="timm",
        architecture=architecture,
        channels=channels,
        image_size=image_size,
        patch=image_size // grid,
        width=vit.embed_dim,
        depth=len(vit.blocks),
        heads=vit.blocks[0].attn.num_heads,
        hidden=vit.blocks[0].mlp.fc2.in_features,
        table=grid,
        epsilon=norms[0].eps,
        class_token=class_token,
        registers=vit.num_prefix_tokens - int(class_token),
        antialias=True,
    )


def _no_transformer(name: str) -> UserError:
    return UserError(
        f"timm's {name} is no plain vision transformer: registers have no place in it",
        "give a VisionTransformer or an Eva of timm's whose blocks have an MLP with fc2",
    )
