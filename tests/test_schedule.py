"""The learning rate of each step."""

import pytest

from harness.schedule import learning_rate
from harness.spec import Recipe


@pytest.mark.parametrize(("warmup", "first", "middle"), [("linear", 0.1, 0.6), ("from-zero", 0.0, 0.5), ("flat", 1, 1)])
def test_three_ways_to_begin(warmup: str, first: float, middle: float) -> None:
    recipe = Recipe.model_validate({"steps": 100, "learning_rate": 1.0, "warmup_steps": 10, "warmup": warmup})
    assert [learning_rate(recipe, step) for step in (0, 5, 10, 99)] == pytest.approx([first, middle, 1.0, 1.0])


@pytest.mark.parametrize(("decay", "half"), [("linear", 0.55), ("cosine", 0.55)])
def test_a_decay_without_an_end_reaches_the_last_step(decay: str, half: float) -> None:
    recipe = Recipe.model_validate({"steps": 100, "learning_rate": 1.0, "decay": decay, "final_learning_rate": 0.1})
    assert [learning_rate(recipe, step) for step in (0, 50, 100, 150)] == pytest.approx([1.0, half, 0.1, 0.1])


def test_a_decay_that_ends_with_the_warm_up_is_over() -> None:
    recipe = Recipe(steps=9, learning_rate=1.0, warmup_steps=5, decay="linear", decay_end=5, final_learning_rate=0.1)
    assert learning_rate(recipe, 5) == 0.1
