"""Which encoders there are: vision transformers, as facts (no torch)."""

from collections.abc import Mapping
from typing import Any, Literal

from harness.errors import unknown_name
from harness.frozen import Frozen, NonNegativeInt, PositiveFloat, PositiveInt

Family = Literal["siglip", "dinov2", "dinov3", "mae", "clip", "timm"]
Triple = tuple[float, float, float]

HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class EncoderDefinition(Frozen):
    """A vision transformer, and how images go into it.

    It sees `image_size` squared pixels, (x - mean) / std of images in [0, 1], in patches of `patch` squared.
    Its sequence begins with a class token where `class_token` says so and `registers` trained registers.
    `hidden` is the width of its MLPs, `epsilon` that of its norms.  The weights are `hub` (HuggingFace's format) or
    `timm` (timm's, "name.tag"); `architecture` is a timm name where the family is "timm".
    A position table of `table` squared patches is resized to the grid with `antialias` or without, as its official
    code does.  `shipped` weights come with this project.  `registered` names the same encoder with trained registers.
    """

    name: str
    title: str = ""
    family: Family
    hub: str = ""
    timm: str = ""
    architecture: str = ""
    shipped: bool = False
    channels: PositiveInt = 3
    image_size: PositiveInt
    patch: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    hidden: PositiveInt
    table: PositiveInt
    epsilon: PositiveFloat = 1e-6
    activation: Literal["gelu", "gelu-tanh", "quick-gelu", "silu"] = "gelu"
    gated: bool = False
    class_token: bool = True
    registers: NonNegativeInt = 0
    antialias: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    registered: str = ""

    def facts(self) -> dict[str, Any]:
        """What decides its features: neither its name nor where its weights are."""
        return self.model_dump(mode="json", exclude={"name", "title", "hub", "timm", "shipped", "registered"})

    @property
    def grid(self) -> int:
        """How many patches lie along a side."""
        return self.image_size // self.patch

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the first patch: the class token and trained registers."""
        return int(self.class_token) + self.registers


def _siglip2() -> list[EncoderDefinition]:
    base = EncoderDefinition(
        name="siglip2-b",
        title="SigLIP2-B/16 at 256 x 256",
        family="siglip",
        hub="google/siglip2-base-patch16-256",
        timm="vit_base_patch16_siglip_256.v2_webli",
        image_size=256,
        patch=16,
        width=768,
        depth=12,
        heads=12,
        hidden=3072,
        table=16,
        activation="gelu-tanh",
        class_token=False,
        mean=HALF,
        std=HALF,
    )
    so400m = {
        "name": "siglip2-so400m",
        "title": "SigLIP2-So400M/14 at 224 x 224",
        "hub": "google/siglip2-so400m-patch14-224",
        "timm": "vit_so400m_patch14_siglip_224.v2_webli",
        "image_size": 224,
        "patch": 14,
        "width": 1152,
        "depth": 27,
        "heads": 16,
        "hidden": 4304,
    }
    return [base, base.model_copy(update=so400m)]


def _dinov2(letter: str, width: int, depth: int, heads: int) -> list[EncoderDefinition]:
    size = {"s": "small", "b": "base", "l": "large"}[letter]
    plain = EncoderDefinition(
        name=f"dinov2-{letter}",
        title=f"DINOv2-{letter.upper()}/14 at 224 x 224, no registers",
        family="dinov2",
        hub=f"facebook/dinov2-{size}",
        timm=f"vit_{size}_patch14_dinov2.lvd142m",
        image_size=224,
        patch=14,
        width=width,
        depth=depth,
        heads=heads,
        hidden=4 * width,
        table=37,
        registered=f"dinov2-{letter}-reg",
    )
    registered = {
        "name": plain.registered,
        "title": f"DINOv2-{letter.upper()}/14 at 224 x 224, trained with 4 registers",
        "hub": f"facebook/dinov2-with-registers-{size}",
        "timm": f"vit_{size}_patch14_reg4_dinov2.lvd142m",
        "registers": 4,
        "antialias": True,
        "registered": "",
    }
    return [plain, plain.model_copy(update=registered)]


def _dinov3(letter: str, width: int, depth: int, heads: int) -> EncoderDefinition:
    size = {"s": "small", "b": "base", "l": "large"}[letter]
    return EncoderDefinition(
        name=f"dinov3-{letter}",
        title=f"DINOv3-{letter.upper()}/16 at 256 x 256, trained with 4 registers",
        family="dinov3",
        hub=f"facebook/dinov3-vit{letter}16-pretrain-lvd1689m",
        timm=f"vit_{size}_patch16_dinov3_qkvb.lvd1689m",
        image_size=256,
        patch=16,
        width=width,
        depth=depth,
        heads=heads,
        hidden=4 * width,
        table=16,
        epsilon=1e-5,
        registers=4,
    )


def _mae_b() -> EncoderDefinition:
    return EncoderDefinition(
        name="mae-b",
        title="MAE-B/16 at 256 x 256",
        family="mae",
        hub="facebook/vit-mae-base",
        timm="vit_base_patch16_224.mae",
        image_size=256,
        patch=16,
        width=768,
        depth=12,
        heads=12,
        hidden=3072,
        table=14,
        epsilon=1e-12,
    )


def _clip(letter: str, patch: int, width: int, depth: int, heads: int) -> EncoderDefinition:
    size = {"b": "base", "l": "large"}[letter]
    return EncoderDefinition(
        name=f"clip-{letter}",
        title=f"CLIP-{letter.upper()}/{patch} at 224 x 224 (OpenAI)",
        family="clip",
        hub=f"openai/clip-vit-{size}-patch{patch}",
        timm=f"vit_{size}_patch{patch}_clip_quickgelu_224.openai",
        image_size=224,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        hidden=4 * width,
        table=224 // patch,
        epsilon=1e-5,
        activation="quick-gelu",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )


def _digits_vit() -> EncoderDefinition:
    return EncoderDefinition(
        name="digits-vit",
        title="a small ViT/2 for 8 x 8 digits, trained on them, shipped here",
        family="siglip",
        shipped=True,
        channels=1,
        image_size=8,
        patch=2,
        width=32,
        depth=6,
        heads=4,
        hidden=128,
        table=4,
        class_token=False,
        mean=(0.5,),
        std=(0.5,),
    )


ENCODERS: Mapping[str, EncoderDefinition] = {
    definition.name: definition
    for definition in (
        *_siglip2(),
        *_dinov2("s", 384, 12, 6),
        *_dinov2("b", 768, 12, 12),
        *_dinov2("l", 1024, 24, 16),
        _dinov3("s", 384, 12, 6),
        _dinov3("b", 768, 12, 12),
        _dinov3("l", 1024, 24, 16),
        _mae_b(),
        _clip("b", 16, 768, 12, 12),
        _clip("l", 14, 1024, 24, 16),
        _digits_vit(),
    )
}


def find(name: str) -> EncoderDefinition:
    """The encoder of a name; raises UserError for one that there is not."""
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    return ENCODERS[name]
