"""CLIPScore: how near images are to their prompts in CLIP's space."""

# n images of a prompt, E width of an embedding

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from harness.comparability import Basis, GuidanceUsed, ReferenceIdentity
from harness.frozen import Frozen
from harness.metrics.clip import Clip
from harness.records import Measurement

NAME = "clip_score"
UNIT = "100 x cosine"
SCALE = 100.0


class PromptScores(Frozen):
    """The scores of a prompt's images, in their order, and whether the prompt `is_cut`: longer than CLIP reads."""

    scores: tuple[float, ...] = Field(min_length=1)
    is_cut: bool = False


def score_prompt(clip: Clip, images: Sequence[Image.Image], text: str) -> PromptScores:
    """100 max(cos, 0) of each image's embedding and the prompt's; torchmetrics clamps their mean instead.

    The CLIPScore of arXiv 2104.08718 is 2.5 max(cos, 0), and of "A photo depicts" before the text: without these words
    it is this number times 0.025.  Images and text are all that a score depends on.
    """
    features_nE, text_E = clip.image_features(images), clip.text_features([text])[0]
    cosines_n = features_nE.astype(np.float64) @ text_E.astype(np.float64)
    scores = tuple(float(SCALE * max(cosine, 0.0)) for cosine in cosines_n)
    return PromptScores(scores=scores, is_cut=clip.is_cut(text))


def basis_of(clip: Clip, prompts: ReferenceIdentity | None, guidance: GuidanceUsed) -> Basis:
    """What a mean of scores rests on: this CLIP, these prompts, and how images were guided to them."""
    settings = f"at most {clip.longest_text} tokens of a prompt"
    return Basis(extractor=clip.identity, reference=prompts, guidance=guidance, settings=settings)


def measurement(scores: Sequence[PromptScores], basis: Basis) -> Measurement:
    """The mean over images, with a standard error over prompts, since images of one prompt resemble each other."""
    counts = np.array([len(each.scores) for each in scores])
    sums = np.array([sum(each.scores) for each in scores])
    assert counts.sum(), "no images, no score"
    mean = float(sums.sum() / counts.sum())
    cut = sum(each.is_cut for each in scores)
    return Measurement(
        name=NAME,
        value=mean,
        unit=UNIT,
        better="higher",
        num_images=int(counts.sum()),
        note=f"CLIP reads {cut} of {len(scores)} prompts without their ends, which are too long for it" if cut else "",
        basis=basis,
        parts={"prompts": float(len(scores)), "prompts_cut": float(cut)},
        standard_error=_clustered(sums - mean * counts, int(counts.sum())),
    )


def _clustered(excess: npt.NDArray[np.float64], num_images: int) -> float | None:
    """The standard error of a mean over images, by what each prompt adds beyond it; None for a single prompt.

    The linearised variance of a ratio of sums over clusters: G / (G - 1) sum(excess^2) / N^2.
    """
    clusters = len(excess)
    if clusters < 2:
        return None
    return float(np.sqrt(clusters / (clusters - 1) * np.square(excess).sum()) / num_images)
