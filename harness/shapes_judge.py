"""Judge images of drawn shapes by GenEval's rules, with a detector that makes no mistake on drawings."""

# N images, H height, W width, C channels

from collections.abc import Sequence
from dataclasses import dataclass

from harness.comparability import Basis, GuidanceUsed, ReferenceIdentity
from harness.images import Pixels
from harness.metrics.geneval.chance import chance_of
from harness.metrics.geneval.exact_detector import IDENTITY, detect
from harness.metrics.geneval.official_prompts import prompts_sha256
from harness.metrics.geneval.prompt import Prompt
from harness.metrics.geneval.rules import Options, decide
from harness.metrics.geneval.summary import summarise
from harness.metrics.geneval.values import measurements
from harness.metrics.geneval.verdicts import PromptVerdicts
from harness.records import Measurement

PREFIX = "geneval_shapes"


@dataclass(frozen=True)
class Judged:
    """What was decided of each image, and the shares that follow."""

    verdicts: list[PromptVerdicts]
    measurements: list[Measurement]


def judge_shapes(prompts: Sequence[Prompt], images_NHWC: Pixels, guidance: GuidanceUsed) -> Judged:
    """Decide of images (N, H, W, 3), all of a prompt in a row, whether they show what their prompt says.

    Each share has beside it what chance gives: that of images judged by the other prompts of their category.
    """
    seen = [detect(image_HWC) for image_HWC in images_NHWC]
    options, each = Options(), len(seen) // len(prompts)
    rows = [seen[start : start + each] for start in range(0, len(seen), each)]
    verdicts = [
        PromptVerdicts(prompt=prompt, images=tuple(decide(prompt, *found, options) for found in row))
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    measured = measurements(summarise(verdicts), PREFIX, _basis(prompts, guidance))
    return Judged(verdicts, _beside_chance(measured, chance_of(prompts, rows, options)))


def _basis(prompts: Sequence[Prompt], guidance: GuidanceUsed) -> Basis:
    reference = ReferenceIdentity(name="shapes-prompts", sha256=prompts_sha256(prompts), split="held out")
    return Basis(extractor=IDENTITY, reference=reference, guidance=guidance, settings=Options().words())


def _beside_chance(measured: Sequence[Measurement], chance: dict[str, float]) -> list[Measurement]:
    shares = {f"{PREFIX}_{tag}": share for tag, share in chance.items()}
    shares[PREFIX] = sum(chance.values()) / len(chance)
    return [
        each.model_copy(update={"parts": {**each.parts, "chance": shares[each.name]}}) if each.name in shares else each
        for each in measured
    ]
