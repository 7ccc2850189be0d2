"""The network of an encoder: timm's VisionTransformer or Eva, by the definition's dimensions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from timm.layers.activations import QuickGELU
from timm.layers.mlp import Mlp, SwiGLU, SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from harness.encoders import EncoderDefinition

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu-tanh": partial(nn.GELU, approximate="tanh"),
    "quick-gelu": QuickGELU,
    "silu": nn.SiLU,
}
# down(activation(gate) * up), gate and up in one layer.
_PACKED: Any = SwiGLUPacked
# The values that a layer scale starts from never matter: a file overwrites them.
_LAYER_SCALE = 1.0
_ROTARY_BASE = 100.0


def build(definition: EncoderDefinition) -> VisionTransformer | Eva:
    """The network without head and pooling, its position table as large as the definition's grid; not trained.

    On the device that is current: under `torch.device("meta")` it costs no memory and no random numbers.
    """
    if definition.family == "timm":
        return _named(definition)
    return _dinov3(definition) if definition.family == "dinov3" else _plain(definition)


def _named(definition: EncoderDefinition) -> VisionTransformer | Eva:
    vit: Any = timm.create_model(
        definition.architecture,
        pretrained=False,
        num_classes=0,
        global_pool="",
        img_size=definition.image_size,
        in_chans=definition.channels,
        dynamic_img_size=False,
    )
    # A model that normalises after it pools has its one final norm here.
    if isinstance(vit.norm, nn.Identity):
        vit.norm = vit.fc_norm
    vit.fc_norm = nn.Identity()
    built: VisionTransformer | Eva = vit
    return built


def _plain(definition: EncoderDefinition) -> VisionTransformer:
    is_dinov2 = definition.family == "dinov2"
    return VisionTransformer(
        **_dimensions(definition),
        mlp_ratio=_mlp_ratio(definition, definition.hidden * (2 if definition.gated else 1)),
        mlp_layer=_PACKED if definition.gated else Mlp,
        act_layer=_ACTIVATIONS[definition.activation],
        init_values=_LAYER_SCALE if is_dinov2 else None,
        reg_tokens=definition.registers,
        no_embed_class=definition.registers > 0,
        pre_norm=definition.family == "clip",
    )


def _dinov3(definition: EncoderDefinition) -> Eva:
    vit = Eva(
        **_dimensions(definition),
        mlp_ratio=_mlp_ratio(definition, definition.hidden),
        swiglu_mlp=definition.gated,
        # An alignment, even to one, keeps gate and value in two layers, as the official files have them.
        swiglu_align_to=1,
        init_values=_LAYER_SCALE,
        num_reg_tokens=definition.registers,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_temperature=_ROTARY_BASE,
        rope_rotate_half=True,
    )
    for block in vit.blocks:
        mlp: Any = block.mlp
        assert isinstance(mlp, SwiGLU) == definition.gated
        mlp.act = _ACTIVATIONS[definition.activation]()
    return vit


def _dimensions(definition: EncoderDefinition) -> dict[str, Any]:
    return {
        "img_size": definition.image_size,
        "patch_size": definition.patch,
        "in_chans": definition.channels,
        "num_classes": 0,
        "global_pool": "",
        "embed_dim": definition.width,
        "depth": definition.depth,
        "num_heads": definition.heads,
        "class_token": definition.class_token,
        "norm_layer": partial(nn.LayerNorm, eps=definition.epsilon),
    }


def _mlp_ratio(definition: EncoderDefinition, hidden: int) -> float:
    """What timm multiplies the width by and rounds down: half a neuron more, so that `hidden` comes out."""
    return (hidden + 0.5) / definition.width
