"""What others published of text to image, in percent, and how much of it is chance: quoted, never ranked with ours."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb
import pandas as pd

from harness.metrics.geneval.prompt import TAGS
from leaderboard.geneval_queries import PERCENT, TITLES

# GenEval's prompts by category, in the order of TAGS, and the images of each.
PROMPTS: Final = (80, 99, 80, 94, 100, 100)
IMAGES_OF_A_PROMPT: Final = 4
COUNTED_IN: Final = "GenEval's official list of prompts, github.com/djghosh13/geneval"
CURVES: Final[Mapping[str, str]] = {"geneval": "GenEval", "dpg": "DPG-Bench"}
PERCENT_OF: Final[Mapping[str, float]] = {"share": PERCENT, "%": 1.0}
FROM_PIXELS: Final = "measured from pixels of a plot"
_BOTH: Final = ("none", "dsr")

# The columns of a quoted model's scores, by the metric.
SCORES: Final[Mapping[str, str]] = {
    "geneval": CURVES["geneval"],
    **{f"geneval_{tag}": TITLES[tag] for tag in TAGS},
    "dpg": CURVES["dpg"],
}


@dataclass(frozen=True)
class Quoted:
    """Figures in percent: `models` has a row each with columns as in `SCORES`, `curves` a row for each read point.

    Columns of `curves`: metric, registers, arm, steps, value, is_hidden (its marker was partly hidden in the figure).
    `remarks` say in plain sentences what is to be thought of them.
    """

    models: pd.DataFrame
    curves: pd.DataFrame
    remarks: tuple[str, ...]


def quoted(database: duckdb.DuckDBPyConnection) -> Quoted:
    """Everything that is quoted of text to image."""
    found = database.execute(
        """
        SELECT id, title AS publication, arxiv, url, model, arm, registers, metric, value, unit, steps, "read", note
        FROM published WHERE list_contains($metrics, metric) ORDER BY registers = '', title, rowid
        """,
        {"metrics": [*SCORES, "correlation_fid_t2i"]},
    ).df()
    scored = found[found["metric"].isin(SCORES)]
    scored = scored.assign(value=scored["value"] * scored["unit"].map(PERCENT_OF).astype(float))
    is_read = scored["read"] == FROM_PIXELS
    curves = scored[is_read & scored["steps"].notna() & scored["metric"].isin(CURVES)]
    curves = curves.assign(is_hidden=curves["note"].str.contains("hidden"))
    curves = curves[["metric", "registers", "arm", "steps", "value", "is_hidden"]].reset_index(drop=True)
    models = _models(scored[~is_read])
    return Quoted(models, curves, tuple(_remarks(scored[~is_read], curves, found)))


def standard_errors(percent: float) -> tuple[float, float]:
    """(least, most) standard error, in points, of a score that every category has, from the prompts alone.

    The least is that of independent images; the most that of prompts whose four images are always alike.
    """
    share = percent / PERCENT
    of_prompts = sum(share * (1 - share) / count for count in PROMPTS) / len(PROMPTS) ** 2
    most = PERCENT * math.sqrt(of_prompts)
    return most / math.sqrt(IMAGES_OF_A_PROMPT), most


def z_of(first: float, second: float) -> tuple[float, float]:
    """(least, most) number of standard errors between two scores in percent, of one training each."""
    (first_least, first_most), (second_least, second_most) = standard_errors(first), standard_errors(second)
    apart = abs(second - first)
    return apart / math.hypot(first_most, second_most), apart / math.hypot(first_least, second_least)


def _models(figures: pd.DataFrame) -> pd.DataFrame:
    """A row for each model and arm, in the order of the sources."""
    named = ["publication", "arxiv", "url", "model", "arm"]
    table = figures[named].drop_duplicates().reset_index(drop=True)
    for metric, title in SCORES.items():
        mine = figures[figures["metric"] == metric].drop_duplicates(named)[[*named, "value"]]
        table = table.merge(mine.rename(columns={"value": title}), how="left", on=named)
    return table


def _remarks(printed: pd.DataFrame, curves: pd.DataFrame, found: pd.DataFrame) -> Iterator[str]:
    pair = [printed[(printed["metric"] == "geneval") & (printed["registers"] == preset)] for preset in _BOTH]
    if all(len(each) == 1 for each in pair):
        yield _how_sure(*(float(each["value"].iloc[0]) for each in pair))
    if not curves.empty:
        yield (
            "The curves are of one training each. They were read from the pixels of the authors' figure; a hollow "
            "point had its marker partly hidden, and was read by eye."
        )
    crossings = [words for metric in CURVES for words in _crossings(curves, metric)]
    if crossings:
        yield f"They cross: with registers the score is lower for {', '.join(crossings)}."
    correlations = found[found["metric"] == "correlation_fid_t2i"]
    if not correlations.empty:
        least, most = float(correlations["value"].max()), float(correlations["value"].min())
        models, source = correlations["model"].iloc[0], correlations["publication"].iloc[0]
        both = f"between {_signed(least)} and {_signed(most)}" if least != most else f"of {_signed(least)}"
        yield (
            f"Why FID and text to image are both measured: over {models} the correlation of ImageNet FID with "
            f"text-to-image scores is {both} (Pearson, lower FID is better; {source}): one does not predict the other."
        )


def _how_sure(none: float, dsr: float) -> str:
    first, second = standard_errors(none), standard_errors(dsr)
    least, most = min(first[0], second[0]), max(first[1], second[1])
    weakest, strongest = z_of(none, dsr)
    images = IMAGES_OF_A_PROMPT * sum(PROMPTS)
    return (
        f"{none:.1f} to {dsr:.1f} is one training each, so that what another seed gives is not known. Of the prompts "
        f"alone, {sum(PROMPTS)} with {IMAGES_OF_A_PROMPT} images each in categories of {_listed(PROMPTS)} "
        f"({COUNTED_IN}), one score has a standard error of {least:.2f} points if all {images:,} images are "
        f"independent, and of {most:.2f} if those of a prompt are always alike: {_signed(dsr - none)} points are "
        f"{weakest:.1f} to {strongest:.1f} standard errors of the difference (worked out here)."
    )


def _crossings(curves: pd.DataFrame, metric: str) -> Iterator[str]:
    """Where the curve with registers lies below the other."""
    mine = curves[curves["metric"] == metric].pivot_table(index="steps", columns="registers", values="value")
    if not set(_BOTH) <= set(mine.columns):
        return
    for steps, values in mine.dropna(subset=list(_BOTH)).iterrows():
        if values["dsr"] < values["none"]:
            yield f"{CURVES[metric]} at {steps:,.0f} steps ({values['dsr']:.1f} against {values['none']:.1f})"


def _listed(counts: Sequence[int]) -> str:
    return f"{', '.join(map(str, counts[:-1]))} and {counts[-1]}"


def _signed(value: float) -> str:
    return f"{value:+.2g}".replace("-", "−") if abs(value) < 1 else f"{value:+.1f}".replace("-", "−")
