"""The learning rate of each step (no torch).

Official schedules: JiT warms up from zero; RAE calls a constant first phase "warm-up", then decays linearly or by a
cosine; all others are special cases.
"""

import math

from harness.spec import Recipe


def learning_rate(recipe: Recipe, step: float) -> float:
    """The rate of step `step`, counted from 0; fractions are allowed, as JiT counts fractions of an epoch."""
    full, warm = recipe.learning_rate, recipe.warmup_steps
    if step < warm:
        match recipe.warmup:
            case "linear":
                return full * (step + 1) / warm
            case "from-zero":
                return full * step / warm
            case "flat":
                return full
    if recipe.decay == "none":
        return full
    end = recipe.steps if recipe.decay_end is None else recipe.decay_end
    share = 1.0 if step >= end else (step - warm) / (end - warm)
    left = 1 - share if recipe.decay == "linear" else 0.5 * (1 + math.cos(math.pi * share))
    return recipe.final_learning_rate + (full - recipe.final_learning_rate) * left
