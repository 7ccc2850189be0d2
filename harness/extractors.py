"""Which feature extractors there are, as facts: what turns images into the numbers that metrics compare (no torch)."""

from collections.abc import Iterable, Mapping
from typing import Literal

from harness.errors import unknown_name
from harness.frozen import Frozen

Family = Literal["clean-fid", "torch-fidelity", "dinov2", "clip", "timm", "digits"]
Mode = Literal["", "clean", "legacy_tensorflow", "legacy_pytorch"]

TIMM = "timm/"


class WeightsFile(Frozen):
    """A file of weights that is published under a URL, and its SHA-256."""

    file: str
    url: str
    sha256: str


class ExtractorDefinition(Frozen):
    """A feature extractor, and where its weights are.

    The weights are one published `file`, or a file of the hub ("owner/name/file", the first of `sources` that can be
    had), or shipped where there is neither.  `mode` is clean-fid's.  Every extractor gives pooled features; `spatial`
    and `probabilities` say what it gives beside them: for sFID and for the Inception Score.
    """

    name: str
    title: str
    family: Family
    mode: Mode = ""
    file: WeightsFile | None = None
    sources: tuple[str, ...] = ()
    spatial: bool = False
    probabilities: bool = False


# The digests are those under which both files are kept in public caches; 6726825d is part of the second one's name.
_TORCHSCRIPT = WeightsFile(
    file="inception-2015-12-05.pt",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
)
_PORT_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_PORT = WeightsFile(
    file="pt_inception-2015-12-05-6726825d.pth",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    sha256=_PORT_SHA256,
)
_PORT_OF_TORCH_FIDELITY = WeightsFile(
    file="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256=_PORT_SHA256,
)


def _inception(name: str, title: str, family: Family, file: WeightsFile, mode: Mode = "") -> ExtractorDefinition:
    return ExtractorDefinition(
        name=name, title=title, family=family, mode=mode, file=file, spatial=True, probabilities=True
    )


EXTRACTORS: Mapping[str, ExtractorDefinition] = {
    definition.name: definition
    for definition in (
        _inception(
            "inception-clean", "Inception by clean-fid: antialiased bicubic resize", "clean-fid", _TORCHSCRIPT, "clean"
        ),
        _inception(
            "inception-legacy-tensorflow",
            "Inception by clean-fid: resized as in TensorFlow 1, as ADM's evaluator does",
            "clean-fid",
            _TORCHSCRIPT,
            "legacy_tensorflow",
        ),
        _inception(
            "inception-legacy-pytorch",
            "Inception by clean-fid: resized as pytorch-fid does",
            "clean-fid",
            _PORT,
            "legacy_pytorch",
        ),
        _inception(
            "inception-torch-fidelity",
            "Inception by torch-fidelity: what JiT's published statistics were made with",
            "torch-fidelity",
            _PORT_OF_TORCH_FIDELITY,
        ),
        ExtractorDefinition(
            name="dinov2-l",
            title="DINOv2-L/14 at 224 x 224, its class token: FD-DINOv2",
            family="dinov2",
            sources=(
                "timm/vit_large_patch14_dinov2.lvd142m/model.safetensors",
                "facebook/dinov2-large/model.safetensors",
            ),
        ),
        ExtractorDefinition(
            name="clip-l",
            title="CLIP-L/14 at 336 x 336 (OpenAI), its image embedding: CMMD",
            family="clip",
            sources=(
                "timm/vit_large_patch14_clip_336.openai/model.safetensors",
                "openai/clip-vit-large-patch14-336/pytorch_model.bin",
            ),
        ),
        ExtractorDefinition(
            name="digits",
            title="a small classifier of 8 x 8 digits, trained on them, shipped here",
            family="digits",
            probabilities=True,
        ),
    )
}


def names() -> list[str]:
    """What `find` knows by name; beside them it knows timm/NAME, for any model of timm's."""
    return list(EXTRACTORS)


def find(name: str) -> ExtractorDefinition:
    """The extractor of a name.  Whether timm has a model of such a name is found out when it is opened.

    Raises UserError for a name that nobody knows.
    """
    if name.startswith(TIMM) and name != TIMM:
        return ExtractorDefinition(name=name, title=f"timm's {name.removeprefix(TIMM)}", family="timm")
    if name not in EXTRACTORS:
        raise unknown_name("extractor", name, [*EXTRACTORS, f"{TIMM}NAME"])
    return EXTRACTORS[name]


def weights_by_extractor(words: Iterable[str]) -> dict[str, str]:
    """Places of weights, from "EXTRACTOR=PATH", or a path alone for the only extractor, whose name is then ""."""
    given = {}
    for word in words:
        name, equals, path = word.partition("=")
        is_named = bool(equals) and (name in EXTRACTORS or name.startswith(TIMM))
        given.update({name: path} if is_named else {"": word})
    return given
