"""GenEval's numbers: the mean of categories, how sure it is, and under which names records have it."""

from collections.abc import Sequence

import numpy as np
import pytest

from harness.comparability import Basis
from harness.errors import UserError
from harness.metrics.geneval.official_prompts import official_prompts
from harness.metrics.geneval.prompt import TAGS, Prompt
from harness.metrics.geneval.summary import Summary, official_report, summarise
from harness.metrics.geneval.values import measurements
from harness.metrics.geneval.verdicts import ImageVerdict, PromptVerdicts


def _verdicts(prompt: Prompt, right: Sequence[bool]) -> PromptVerdicts:
    return PromptVerdicts(prompt=prompt, images=tuple(ImageVerdict(correct=each) for each in right))


def _prompt(tag: str) -> Prompt:
    return Prompt(tag=tag, include=(), prompt="a photo")


@pytest.fixture(scope="module")
def official() -> list[PromptVerdicts]:
    """Four images of each official prompt; how often they are right is the prompt's own, and differs by category."""
    random = np.random.default_rng(0)
    ability: dict[str, float] = dict(zip(TAGS, (0.95, 0.5, 0.4, 0.8, 0.1, 0.25), strict=True))
    chances = [random.beta(2 * ability[prompt.tag], 2 - 2 * ability[prompt.tag]) for prompt in official_prompts()]
    return [
        _verdicts(prompt, [random.random() < chance for _ in range(4)])
        for prompt, chance in zip(official_prompts(), chances, strict=True)
    ]


@pytest.fixture(scope="module")
def summary(official: list[PromptVerdicts]) -> Summary:
    return summarise(official)


def _cluster_error(verdicts: Sequence[PromptVerdicts]) -> float:
    """The standard error of the share of right images of one category, prompts being independent, of equal size."""
    means = [np.mean([image.correct for image in each.images]) for each in verdicts]
    return float(np.std(means) / np.sqrt(len(means)))


def test_the_bootstrap_gives_the_error_that_independent_prompts_have(
    official: list[PromptVerdicts], summary: Summary
) -> None:
    errors = {tag: _cluster_error([each for each in official if each.prompt.tag == tag]) for tag in TAGS}
    for tag, error in errors.items():
        uncertainty = summary.tags[tag].uncertainty
        assert uncertainty is not None
        assert uncertainty.standard_error == pytest.approx(error, rel=0.04)
    whole = summary.overall.uncertainty
    assert whole is not None
    assert whole.standard_error == pytest.approx(np.sqrt(sum(error**2 for error in errors.values())) / 6, rel=0.04)
    assert whole.low < summary.overall.value < whole.high
    assert (whole.high - whole.low) / whole.standard_error == pytest.approx(2 * 1.96, rel=0.05)


def test_images_of_one_prompt_are_not_taken_for_independent() -> None:
    together = [_verdicts(_prompt("mine"), [number % 2 == 0] * 4) for number in range(50)]
    apart = [_verdicts(_prompt("mine"), [True, False, True, False]) for _ in range(50)]
    tied, free = (summarise(each).overall for each in (together, apart))
    assert tied.value == free.value == 0.5
    assert tied.uncertainty is not None
    assert free.uncertainty is not None
    assert tied.uncertainty.standard_error == pytest.approx(0.5 / np.sqrt(50), rel=0.04)
    assert free.uncertainty.standard_error == 0


def test_a_prompt_weighs_as_much_as_it_has_images() -> None:
    summary = summarise([_verdicts(_prompt("mine"), [True]), _verdicts(_prompt("mine"), [False] * 3)])
    assert summary.overall.value == 0.25
    assert summary.prompts.value == 0.5


def test_the_error_of_a_single_prompt_is_not_known_nor_is_that_of_what_it_is_part_of() -> None:
    several = [_verdicts(_prompt("several"), [True, False]) for _ in range(3)]
    summary = summarise([*several, _verdicts(_prompt("single"), [True, True])])
    assert summary.tags["several"].uncertainty is not None
    assert summary.tags["single"].uncertainty is None
    assert (summary.overall.uncertainty, summary.images.uncertainty, summary.prompts.uncertainty) == (None, None, None)
    named = {each.name: each for each in measurements(summary, "geneval", Basis())}
    assert named["geneval_single"].standard_error is None
    assert named["geneval_single"].parts == {"correct": 2, "images": 2}


def test_the_same_verdicts_give_the_same_summary(official: list[PromptVerdicts], summary: Summary) -> None:
    assert summarise(official) == summary


def test_records_have_the_mean_of_six_categories_by_the_metrics_own_name(summary: Summary) -> None:
    named = {each.name: each for each in measurements(summary, "geneval", Basis())}
    expected = ["geneval", *(f"geneval_{tag}" for tag in TAGS), "geneval_image_accuracy", "geneval_prompt_accuracy"]
    assert list(named) == expected
    assert named["geneval"].value == pytest.approx(np.mean([named[f"geneval_{tag}"].value for tag in TAGS]))
    assert named["geneval"].value != named["geneval_image_accuracy"].value
    assert named["geneval"].num_images == 2212
    assert named["geneval_position"].parts["images"] == 400
    assert named["geneval_prompt_accuracy"].parts["prompts"] == 553
    assert named["geneval_prompt_accuracy"].unit == "share of prompts"
    assert all(each.parts["low"] <= each.value <= each.parts["high"] for each in named.values())


def test_a_mean_of_other_categories_has_not_that_name(official: list[PromptVerdicts]) -> None:
    five = [each for each in official if each.prompt.tag != "counting"]
    seven = [*official, _verdicts(_prompt("mine"), [True]), _verdicts(_prompt("mine"), [True])]
    for verdicts in (five, seven):
        assert "geneval" not in {each.name for each in measurements(summarise(verdicts), "geneval", Basis())}


def test_categories_are_told_in_the_order_in_which_they_occur() -> None:
    report = official_report(summarise([_verdicts(_prompt("zebras"), [True]), _verdicts(_prompt("apes"), [False])]))
    assert report.index("zebras           = 100.00% (1 / 1)") < report.index("apes             = 0.00% (0 / 1)")


def test_nothing_is_not_summarised_as_zero() -> None:
    with pytest.raises(UserError, match="no prompts"):
        summarise([])
    with pytest.raises(UserError, match="has no images"):
        summarise([_verdicts(_prompt("mine"), [])])
