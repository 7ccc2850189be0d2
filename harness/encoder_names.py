"""What an encoder's weights are called: HuggingFace's names and timm's, both ways."""

# N tokens of a position table, D width

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from harness.encoders import EncoderDefinition

State = Mapping[str, Tensor]

_KINDS = ("weight", "bias")
_TIMM_PATCHES = "patch_embed.proj.weight"
# Heads, pools and tokens of other trainings: no patch token depends on them.
_TIMM_UNUSED = ("head.", "attn_pool.", "fc_norm.", "mask_token")


@dataclass(frozen=True)
class _Naming:
    """HuggingFace's names of one family, as transformers 4 has them.

    `outside` maps our names to theirs, `block` is where block {} lies, `inside` maps the parts of a block: several
    names are stacked in one tensor of ours.  `squeezed` says how many leading axes of ours theirs lacks.  `unused`
    begins what the patch tokens never need.  `newer` are the parts of names that transformers 5 changed, each with
    what it was; 5 leaves out `prefix` too.
    """

    prefix: str
    outside: Mapping[str, str]
    block: str
    inside: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...]
    squeezed: Mapping[str, int] = field(default_factory=dict)
    newer: tuple[tuple[str, str], ...] = ()


def from_official(definition: EncoderDefinition, state: State) -> dict[str, Tensor]:
    """A state dict under timm's names, its position table resized to the definition's grid.

    Takes HuggingFace's names, of transformers 4 or 5, and timm's.  What the patch tokens never need is left out; a
    final norm that is absent becomes one without effect.  Anything else that it does not know or cannot join stays as
    it is, and what is missing stays missing: for the strict comparison to find.
    """
    if definition.family == "timm" or _TIMM_PATCHES in state:
        ours = _of_timm(state)
    else:
        ours = _joined(definition, _used(_naming(definition), state))
    if not {"norm.weight", "norm.bias"} & set(ours):
        ours |= {"norm.weight": torch.ones(definition.width), "norm.bias": torch.zeros(definition.width)}
    if "pos_embed" in ours:
        ours["pos_embed"] = _resized(definition, ours["pos_embed"])
    return ours


def to_official(definition: EncoderDefinition, state: State) -> dict[str, Tensor]:
    """A state dict under timm's names as HuggingFace's of transformers 4 has it, the position table as it is.

    The class token of a DINOv2 with registers keeps the position that was added to it: its row of the table is zero.
    """
    naming, whole = _naming(definition), dict(state)
    if _adds_class_position(definition):
        table_1ND = whole["pos_embed"]
        whole["pos_embed"] = torch.cat([torch.zeros_like(table_1ND[:, :1]), table_1ND], dim=1)
    official: dict[str, Tensor] = {}
    for ours, theirs in _pairs(definition):
        shape = whole[ours].shape[naming.squeezed.get(ours, 0) :]
        parts = whole[ours].reshape(shape).chunk(len(theirs))
        official |= {key: part.clone() for key, part in zip(theirs, parts, strict=True)}
    return official


def _naming(definition: EncoderDefinition) -> _Naming:
    assert definition.family != "timm", "a model of timm's has no other names"
    return _GATED[definition.family] if definition.gated else _NAMINGS[definition.family]


def _of_timm(state: State) -> dict[str, Tensor]:
    norm = {} if "norm.weight" in state else {f"fc_norm.{kind}": f"norm.{kind}" for kind in _KINDS}
    renamed = {norm.get(key, key): value for key, value in state.items()}
    return {key: value for key, value in renamed.items() if not key.startswith(_TIMM_UNUSED)}


def _used(naming: _Naming, state: State) -> dict[str, Tensor]:
    """What the patch tokens need, under transformers 4's names; DINOv3 keeps no registers as an empty tensor."""
    has_prefix = any(key.startswith(naming.prefix) for key in state)
    used: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key if has_prefix else naming.prefix + key
        for new, old in naming.newer:
            name = name.replace(new, old)
        if not name.startswith(naming.unused) and value.numel():
            used[name] = value
    return used


def _joined(definition: EncoderDefinition, official: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official tensors under our names: those of several stacked, the tables in our shapes."""
    ours: dict[str, Tensor] = {}
    for key, parts in _pairs(definition):
        values = [official[part] for part in parts if part in official]
        if len(values) == len(parts) and len({value.shape[1:] for value in values}) == 1:
            ours[key] = torch.cat(values) if len(values) > 1 else values[0]
            for part in parts:
                del official[part]
    for key in _naming(definition).squeezed:
        if key in ours and ours[key].ndim:
            ours[key] = ours[key].reshape(1, -1, ours[key].shape[-1])
    if _adds_class_position(definition) and {"cls_token", "pos_embed"} <= set(ours):
        token_11D, table_1ND = ours["cls_token"], ours["pos_embed"]
        if table_1ND[:, :1].shape == token_11D.shape:
            ours |= {"cls_token": token_11D + table_1ND[:, :1], "pos_embed": table_1ND[:, 1:]}
    return ours | official


def _adds_class_position(definition: EncoderDefinition) -> bool:
    """Whether timm keeps the class token's position in the token itself: in DINOv2 with registers."""
    return definition.family == "dinov2" and definition.registers > 0


def _resized(definition: EncoderDefinition, table_1ND: Tensor) -> Tensor:
    """A position table at the definition's grid, the rows before the patches' as they are.

    A table of neither the definition's size nor the grid's stays as it is.
    """
    grid = definition.grid
    rows = table_1ND.shape[1] if table_1ND.ndim == 3 else 0
    sides = [side for side in (grid, definition.table) if rows - side**2 in _rows_before_patches(definition)]
    if not sides or sides[0] == grid:
        return table_1ND
    side, before = sides[0], rows - sides[0] ** 2
    patches = table_1ND[:, before:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(
        patches, (grid, grid), mode="bicubic", align_corners=False, antialias=definition.antialias
    )
    return torch.cat([table_1ND[:, :before], resized.flatten(2).mT], dim=1)


def _rows_before_patches(definition: EncoderDefinition) -> set[int]:
    if definition.family == "timm":
        return {0, definition.num_prefix_tokens}
    return {int(definition.class_token and definition.registers == 0)}


def _pairs(definition: EncoderDefinition) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Our keys of a network, each with the official keys that are stacked in it."""
    naming = _naming(definition)
    for ours, theirs in naming.outside.items():
        if ours != "reg_token" or definition.registers:
            yield ours, (naming.prefix + theirs,)
    for layer in range(definition.depth):
        place = naming.prefix + naming.block.format(layer)
        for ours, parts in naming.inside.items():
            yield f"blocks.{layer}.{ours}", tuple(f"{place}.{part}" for part in parts)


def _layers(names: Mapping[str, tuple[str, ...] | str]) -> dict[str, tuple[str, ...]]:
    """Weights and biases of layers."""
    parts = {ours: (theirs,) if isinstance(theirs, str) else theirs for ours, theirs in names.items()}
    return {f"{key}.{kind}": tuple(f"{part}.{kind}" for part in parts[key]) for key in parts for kind in _KINDS}


def _ends(names: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in names.items() for kind in _KINDS}


# What CLIP began: SigLIP has no class token and no norm before the blocks, CLIP's patches have no bias.
_SIGLIP = _Naming(
    prefix="vision_model.",
    outside={
        **_ends({"patch_embed.proj": "embeddings.patch_embedding", "norm": "post_layernorm"}),
        "pos_embed": "embeddings.position_embedding.weight",
    },
    block="encoder.layers.{}",
    inside=_layers(
        {
            "norm1": "layer_norm1",
            "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "attn.proj": "self_attn.out_proj",
            "norm2": "layer_norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        }
    ),
    squeezed={"pos_embed": 1},
    unused=(
        "vision_model.head.",
        "vision_model.embeddings.position_ids",
        "text_model.",
        "logit_scale",
        "logit_bias",
    ),
)
_CLIP = replace(
    _SIGLIP,
    outside={
        _TIMM_PATCHES: "embeddings.patch_embedding.weight",
        **_ends({"norm_pre": "pre_layrnorm", "norm": "post_layernorm"}),
        "cls_token": "embeddings.class_embedding",
        "pos_embed": "embeddings.position_embedding.weight",
    },
    squeezed={"cls_token": 2, "pos_embed": 1},
    unused=(
        "vision_model.embeddings.position_ids",
        "text_model.",
        "logit_scale",
        "visual_projection.",
        "text_projection.",
    ),
)
_VIT_ATTENTION: dict[str, tuple[str, ...] | str] = {
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": "attention.output.dense",
}
_VIT_NEWER = (
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
)
_DINOV2 = _Naming(
    prefix="",
    outside={
        **_ends({"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}),
        "cls_token": "embeddings.cls_token",
        "reg_token": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
    },
    block="encoder.layer.{}",
    inside={
        **_layers({"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", **_VIT_ATTENTION}),
        "ls1.gamma": ("layer_scale1.lambda1",),
        "ls2.gamma": ("layer_scale2.lambda1",),
    },
    unused=("embeddings.mask_token",),
    newer=_VIT_NEWER,
)
_DINOV2_GATED = replace(
    _DINOV2, inside={**_DINOV2.inside, **_layers({"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"})}
)
_DINOV3_PLAIN_MLP = _layers({"mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"})
_DINOV3_GATED_MLP = _layers({"mlp.fc1_g": "mlp.gate_proj", "mlp.fc1_x": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"})
# Its keys have no bias.
_DINOV3 = _Naming(
    prefix="",
    outside={
        **_ends({"patch_embed.proj": "embeddings.patch_embeddings", "norm": "norm"}),
        "cls_token": "embeddings.cls_token",
        "reg_token": "embeddings.register_tokens",
    },
    block="layer.{}",
    inside={
        **_layers({"norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.o_proj"}),
        **_DINOV3_PLAIN_MLP,
        "attn.qkv.weight": ("attention.q_proj.weight", "attention.k_proj.weight", "attention.v_proj.weight"),
        "attn.q_bias": ("attention.q_proj.bias",),
        "attn.v_bias": ("attention.v_proj.bias",),
        "gamma_1": ("layer_scale1.lambda1",),
        "gamma_2": ("layer_scale2.lambda1",),
    },
    unused=("embeddings.mask_token",),
    newer=(("model.layer.", "layer."),),
)
_DINOV3_GATED = replace(
    _DINOV3,
    inside={key: value for key, value in _DINOV3.inside.items() if key not in _DINOV3_PLAIN_MLP} | _DINOV3_GATED_MLP,
)
_MAE = _Naming(
    prefix="vit.",
    outside={key: value for key, value in _DINOV2.outside.items() if key != "reg_token"},
    block="encoder.layer.{}",
    inside=_layers(
        {
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
            **_VIT_ATTENTION,
        }
    ),
    unused=("decoder.",),
    newer=(
        *_VIT_NEWER,
        ("vit.layers.", "vit.encoder.layer."),
        (".mlp.fc1.", ".intermediate.dense."),
        (".mlp.fc2.", ".output.dense."),
    ),
)
_NAMINGS = {"siglip": _SIGLIP, "dinov2": _DINOV2, "dinov3": _DINOV3, "mae": _MAE, "clip": _CLIP}
_GATED = {"dinov2": _DINOV2_GATED, "dinov3": _DINOV3_GATED}
