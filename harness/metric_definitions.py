"""What is measured of images: each number's name, title, unit, direction and what it needs (no torch)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from harness.metrics.geneval.prompt import TAGS, Tag

FeatureKind = Literal[
    "frechet", "spatial frechet", "inception score", "precision", "recall", "kernel distance", "cmmd", "accuracy"
]
PromptKind = Literal["right images", "right prompts", "clip score"]
Kind = FeatureKind | PromptKind
FeatureNeed = Literal["reference", "reference's features", "spatial features", "probabilities", "labels"]
PromptNeed = Literal["prompts", "objects in the images"]
Need = FeatureNeed | PromptNeed

SQUARED = "squared feature distance"
SHARE = "share of images"
SHARE_OF_PROMPTS = "share of prompts"


@dataclass(frozen=True)
class MetricDefinition:
    """One number of an evaluation.  `needs` is what must be there besides images and, for a feature's, pooled features.

    Those of a FeatureKind are measured in all images' features together; those of a PromptKind image by image, by what
    its prompt asked for.  `version` is raised where the arithmetic changes: older values are then another column.
    """

    name: str
    title: str
    kind: Kind
    unit: str
    better: Literal["lower", "higher"]
    needs: tuple[Need, ...]
    version: int = 1

    @property
    def has_reference(self) -> bool:
        """Whether images are compared with others, and not judged alone."""
        return "reference" in self.needs


def _frechet(name: str, title: str) -> MetricDefinition:
    return MetricDefinition(name, title, "frechet", SQUARED, "lower", ("reference",))


def _kernel(name: str, title: str) -> MetricDefinition:
    needs: tuple[Need, ...] = ("reference", "reference's features")
    return MetricDefinition(name, title, "kernel distance", "squared kernel distance", "lower", needs)


def _precision_and_recall(suffix: str, of: str) -> tuple[MetricDefinition, MetricDefinition]:
    needs: tuple[Need, ...] = ("reference", "reference's features")
    return (
        MetricDefinition(f"precision{suffix}", f"Precision, k = 3, {of}", "precision", SHARE, "higher", needs),
        MetricDefinition(f"recall{suffix}", f"Recall, k = 3, {of}", "recall", SHARE, "higher", needs),
    )


def _geneval(prefix: str, of: str) -> tuple[MetricDefinition, ...]:
    """The numbers of GenEval: `prefix` itself, and with it and "_" those of each category, and of all images alike."""
    needs: tuple[Need, ...] = ("prompts", "objects in the images")

    def share(name: str, title: str) -> MetricDefinition:
        return MetricDefinition(name, f"{of}: {title}", "right images", SHARE, "higher", needs)

    return (
        share(prefix, "mean of its six categories' shares of right images (macro mean)"),
        *(share(f"{prefix}_{tag}", f"share of right images, {words}") for tag, words in _CATEGORIES.items()),
        share(f"{prefix}_image_accuracy", "share of right images, all alike (micro mean; not the headline)"),
        MetricDefinition(
            f"{prefix}_prompt_accuracy",
            f"{of}: share of prompts with at least one right image",
            "right prompts",
            SHARE_OF_PROMPTS,
            "higher",
            needs,
        ),
    )


_CATEGORIES: Final[Mapping[Tag, str]] = {
    "single_object": "prompts for one object",
    "two_object": "prompts for two objects",
    "counting": "prompts for a number of objects",
    "colors": "prompts for a colour",
    "position": "prompts for a relative place",
    "color_attr": "prompts for two objects, each with its colour",
}
assert tuple(_CATEGORIES) == TAGS, "words for every category, in their order"

INCEPTION = (
    _frechet("fid", "Fréchet Inception distance"),
    MetricDefinition(
        "sfid",
        "Fréchet distance of spatial Inception features",
        "spatial frechet",
        SQUARED,
        "lower",
        ("reference", "spatial features"),
    ),
    MetricDefinition(
        "inception_score",
        "Inception Score, in chunks of 5,000",
        "inception score",
        "score",
        "higher",
        ("probabilities",),
    ),
    *_precision_and_recall("", "of Inception features, as ADM"),
    _kernel("kid", "Kernel Inception distance, unbiased at any number of images"),
)
DIGITS = (
    _frechet("fd_digits", "Fréchet distance in the eyes of the digits classifier; no FID"),
    MetricDefinition(
        "digits_accuracy",
        "Share of images seen as the digit that was asked for",
        "accuracy",
        SHARE,
        "higher",
        ("probabilities", "labels"),
    ),
    *_precision_and_recall("_digits", "of the digits classifier's features"),
    _kernel("kd_digits", "Kernel distance in the eyes of the digits classifier"),
)
DINOV2 = (_frechet("fd_dinov2", "Fréchet distance of DINOv2-L features"),)
CLIP = (
    MetricDefinition(
        "cmmd",
        "Maximum mean discrepancy of CLIP-L embeddings, times 1,000",
        "cmmd",
        "squared kernel distance x 1000",
        "lower",
        ("reference", "reference's features"),
    ),
)
# Their prefixes, by which a record says whose prompts and which detector decided.
GENEVAL: Final = "geneval"
GENEVAL_SHAPES: Final = "geneval_shapes"
# What a reference is called that is GenEval's own prompts.
OFFICIAL_PROMPTS: Final = "geneval-553"
BY_PREFIX: Mapping[str, tuple[MetricDefinition, ...]] = {
    GENEVAL: _geneval(GENEVAL, "GenEval"),
    GENEVAL_SHAPES: _geneval(GENEVAL_SHAPES, "GenEval's rules on drawn shapes"),
}
OF_PROMPTS: tuple[MetricDefinition, ...] = (
    *(definition for group in BY_PREFIX.values() for definition in group),
    MetricDefinition(
        "clip_score",
        "CLIPScore: 100 x cosine of image and prompt, at least 0",
        "clip score",
        "100 x cosine",
        "higher",
        ("prompts",),
    ),
)
BY_EXTRACTOR: Mapping[str, tuple[MetricDefinition, ...]] = {
    "inception-clean": INCEPTION,
    "inception-legacy-tensorflow": INCEPTION,
    "inception-legacy-pytorch": INCEPTION,
    "inception-torch-fidelity": INCEPTION,
    "dinov2-l": DINOV2,
    "clip-l": CLIP,
    "digits": DIGITS,
}


def definitions_of(extractor: str) -> tuple[MetricDefinition, ...]:
    """What is measured in an extractor's features: a Fréchet and a kernel distance where nobody settled more."""
    name = extractor.removeprefix("timm/")
    further = (
        _frechet(f"fd_{name}", f"Fréchet distance of {name} features"),
        _kernel(f"kd_{name}", f"Kernel distance of {name} features"),
    )
    return BY_EXTRACTOR.get(extractor, further)


def is_distance(name: str) -> bool:
    """Whether a number is a Fréchet distance, which moments of features are enough for."""
    settled = {each.name: each.kind for each in all_definitions()}
    return settled.get(name, "frechet" if name.startswith("fd_") else "") in ("frechet", "spatial frechet")


def is_inception(extractor: str) -> bool:
    """Whether these are Inception features, whose published numbers are at 50,000 images."""
    return BY_EXTRACTOR.get(extractor) is INCEPTION


def all_definitions() -> Iterator[MetricDefinition]:
    """Every number that has a settled name, each once."""
    yield from dict.fromkeys(definition for group in BY_EXTRACTOR.values() for definition in group)
    yield from OF_PROMPTS
