"""What is measured in features: each number's name, title, unit, direction and what it needs (no torch)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "frechet", "spatial frechet", "inception score", "precision", "recall", "kernel distance", "cmmd", "accuracy"
]
Need = Literal["reference", "reference's features", "spatial features", "probabilities", "labels"]

SQUARED = "squared feature distance"
SHARE = "share of images"


@dataclass(frozen=True)
class MetricDefinition:
    """One number of an evaluation.  `needs` is what must be there besides images and their pooled features.

    `version` is raised where the arithmetic changes: older values are then another column.
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


def is_inception(extractor: str) -> bool:
    """Whether these are Inception features, whose published numbers are at 50,000 images."""
    return BY_EXTRACTOR.get(extractor) is INCEPTION


def all_definitions() -> Iterator[MetricDefinition]:
    """Every number that has a settled name, each once."""
    yield from dict.fromkeys(definition for group in BY_EXTRACTOR.values() for definition in group)
