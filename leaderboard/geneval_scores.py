"""What the board and its export say in words of scores by GenEval's rules."""

from typing import Final

import pandas as pd

from harness.metrics.geneval.prompt import TAGS
from leaderboard.geneval_queries import OVERALL, TITLES

WHAT: Final = (
    "Does an image show what its prompt asks for? GenEval's rules decide it by objects that a detector finds, in six "
    "categories; the score is the mean of the categories."
)
EMBEDDED: Final = (
    "The embedded task: drawn shapes and an exact detector under the same rules. It says nothing of photographs, and "
    "its scores are no GenEval scores."
)
HOW_SURE: Final = (
    "Bars are 95 % intervals: Student's t over seeds, or for one seed the bootstrap over prompts, which says nothing "
    "of another training. Upright grey ticks: by chance, where the records tell it."
)
OF_QUOTED: Final = "In percent, whatever their source prints. Detectors and prompts differ from ours, and among them."
CHANCE: Final = "What the arm's own images get when they are judged by other prompts of their category."


def by_chance(table: pd.DataFrame) -> str:
    """The chance levels of `geneval_queries.scores`, from the least to the most of any arm, in a sentence."""
    levels = table.dropna(subset=["chance"]).groupby("category")["chance"].agg(["min", "max"])
    known = [category for category in (OVERALL, *TAGS) if category in levels.index]
    if not known:
        return "These records do not tell what chance gets."
    said = [_level(category, *map(float, levels.loc[category])) for category in known]
    return f"By chance, which is what images get that are judged by other prompts: {', '.join(said)}."


def _level(category: str, least: float, most: float) -> str:
    both = f"{least:.1f} %", f"{most:.1f} %"
    return f"{TITLES[category].lower()} {both[0]}" + ("" if both[0] == both[1] else f" to {both[1]}")
