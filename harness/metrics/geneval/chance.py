"""How often an image satisfies a prompt that it was not made for: what a score must rise above (no torch)."""

from collections.abc import Sequence

from harness.metrics.geneval.detections import ColorsOf, Detections
from harness.metrics.geneval.prompt import Prompt
from harness.metrics.geneval.rules import OFFICIAL, Options, decide

Detected = tuple[Detections, ColorsOf]


def chance_of(
    prompts: Sequence[Prompt], images: Sequence[Sequence[Detected]], options: Options = OFFICIAL
) -> dict[str, float]:
    """For each tag the share of right verdicts where every prompt's images are judged by the tag's other prompts.

    `images` are what was detected in the images of each prompt.  A tag with one prompt, or without images, is absent.
    Two wordings of one thing ("a circle and a square", "a square and a circle") are two prompts, which can only make
    chance look higher than it is.
    """
    shares = {}
    for tag in dict.fromkeys(prompt.tag for prompt in prompts):
        asked = [(prompt, made) for prompt, made in zip(prompts, images, strict=True) if prompt.tag == tag]
        verdicts = [
            decide(other, *detected, options).correct
            for prompt, made in asked
            for other, _ in asked
            if other is not prompt
            for detected in made
        ]
        if verdicts:
            shares[tag] = sum(verdicts) / len(verdicts)
    return shares
