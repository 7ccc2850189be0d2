"""The exported board's pages of runs: what each was, what it gave, and its picture."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pandas as pd

from leaderboard import queries
from leaderboard.export_html import Cell, document, escaped, is_absent, link, number, preformatted, table, words

# So many runs have a page of their own, and stand in tables: more would make folders that nobody can upload.
MOST: Final = 500
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

STORED: Final = ("config", "circumstances", "provenance")
CURVE_WIDTH, CURVE_HEIGHT = 640, 160
WARMEST: Final = 0.55

# Where not all are shown, equally many of each arm are.
_RUNS: Final = """
SELECT run_id FROM newest
ORDER BY row_number() OVER (PARTITION BY arm_id ORDER BY seed, run_id), arm_id LIMIT $most
"""
_RECORD: Final = "SELECT * FROM newest WHERE run_id = $run_id"
_CURVE: Final = "SELECT step, loss FROM loss_curves WHERE record_id = $record_id ORDER BY step"


@dataclass(frozen=True)
class ShownRuns:
    """The runs that have a page, by their ids, of so many that there are."""

    ids: frozenset[str]
    of: int

    @property
    def told(self) -> str:
        """Which runs are shown, in a sentence."""
        if len(self.ids) == self.of:
            return f"All {self.of} runs have a page of their own."
        return (
            f"Of {self.of:,} runs {len(self.ids)} have a page of their own and stand in the tables of runs: of every "
            "arm its first seeds. Means and differences are over all of them, and all are in data/runs.parquet."
        )

    def link(self, run_id: str, root: str = "") -> str:
        """The way to the page of a run."""
        return link(f"{root}{_address(run_id)}", run_id)


def shown_runs(database: duckdb.DuckDBPyConnection, most: int = MOST) -> ShownRuns:
    """Which runs get a page."""
    (count,) = database.execute("SELECT count(*) FROM newest").fetchall()[0]
    found = database.execute(_RUNS, {"most": most}).fetchall()
    return ShownRuns(frozenset(run_id for (run_id,) in found), count)


def pages_of_runs(database: duckdb.DuckDBPyConnection, runs: ShownRuns, results: Path) -> Iterator[tuple[str, bytes]]:
    """The page of every shown run, and its picture, by their addresses."""
    for run_id in sorted(runs.ids):
        run = database.execute(_RECORD, {"run_id": run_id}).df().to_dict("records")[0]
        picture = _picture(results, run["samples"])
        if picture:
            yield f"pictures/{run_id}.png", picture
        yield _address(run_id), _page(database, run, has_picture=bool(picture))


def _address(run_id: str) -> str:
    return f"runs/{run_id}.html"


def _picture(results: Path, samples: Any) -> bytes:
    """The bytes of a run's sample grid; none where it made none, the file is missing, or is no PNG."""
    if is_absent(samples):
        return b""
    try:
        content = (results / str(samples)).read_bytes()
    except OSError:
        return b""
    return content if content.startswith(_SIGNATURE) else b""


def _page(database: duckdb.DuckDBPyConnection, run: Mapping[Any, Any], *, has_picture: bool) -> bytes:
    record_id = run["record_id"]
    facts = ("run_id", "task", "protocol", "stages", "seed", "steps", "status", "created", "device", "commit", "path")
    rows = [[words(name), words(run[name])] for name in facts]
    if not is_absent(run["third_party"]):
        rows.append([words("third-party backbone"), words(run["third_party"])])
    rows.append([words("badge"), words("measured" if is_absent(run["moments"]) else "verified")])
    title = f"{run['exact_name']}, registers {run['registers']}, seed {run['seed']}"
    body = [
        table(("fact", "value"), rows, "What was run"),
        _samples(run, has_picture=has_picture),
        "<h2>Numbers</h2>",
        _measurements(database, record_id),
        *_outliers(queries.outliers(database, record_id)),
        *_curve(database.execute(_CURVE, {"record_id": record_id}).df()),
        f"<h2>Notes</h2><p>{escaped(run['notes'], 2000)}</p>" if run["notes"] else "",
    ]
    body += [f"<h2>{name.capitalize()}</h2>{preformatted(run[name])}" for name in STORED]
    return document(title, "\n".join(body), root="../")


def _samples(run: Mapping[Any, Any], *, has_picture: bool) -> str:
    if not has_picture:
        return "<p>No samples: the run made none, or their picture is missing.</p>"
    said = "Samples, a row per class or prompt, none picked"
    return (
        f'<figure><img src="../pictures/{escaped(run["run_id"])}.png" alt="{said}" width="480">'
        f"<figcaption>{said}</figcaption></figure>"
    )


def _measurements(database: duckdb.DuckDBPyConnection, record_id: str) -> str:
    rows = [
        [
            words(each["title"]),
            number(each["value"], ".6g"),
            number(each["standard_error"], ".2g"),
            words(each["unit"]),
            number(each["num_images"], ".0f"),
            words(each["note"]),
        ]
        for each in queries.measurements(database, record_id).to_dict("records")
    ]
    return table(("what", "value", "standard error", "unit", "images", "note"), rows, "Everything that was measured")


def _outliers(statistics: pd.DataFrame) -> Iterator[str]:
    """Largest patch-token norm over the median, a row for each block, a column for each noise level."""
    if statistics.empty:
        return
    values = statistics.pivot_table(index="block", columns="time", values="max_over_median")
    most = float(statistics["max_over_median"].max())
    rows = [
        [number(block, "d"), *(_heat(value, most) for value in of_block)]
        for block, of_block in zip(values.index, values.itertuples(index=False), strict=True)
    ]
    yield "<h2>Outlier tokens</h2><p>Largest patch-token norm over the median, mean over images: 0 noise, 1 data.</p>"
    yield table(("after block", *(f"t = {time:.2g}" for time in values.columns)), rows, "Outlier tokens")


def _heat(value: float, most: float) -> Cell:
    """A number whose ground is the warmer the larger it is, on a logarithmic scale from 1."""
    cell = number(value, ".3g")
    if is_absent(value) or not most > 1:
        return cell
    share = WARMEST * max(math.log(max(value, 1)) / math.log(most), 0)
    shaded = f'<span class="heat" style="background: rgb(213 94 0 / {share:.2f})">{cell.content}</span>'
    return Cell(shaded, is_number=True, value=cell.value)


def _curve(curve: pd.DataFrame) -> Iterator[str]:
    """The training loss as a line."""
    known = curve[curve["loss"] > 0]
    if len(known) < 2:
        return
    steps, losses = known["step"].tolist(), [math.log(loss) for loss in known["loss"]]
    across, down = max(steps) - min(steps) or 1, max(losses) - min(losses) or 1
    points = " ".join(
        f"{(step - min(steps)) / across * CURVE_WIDTH:.1f},{(max(losses) - loss) / down * CURVE_HEIGHT:.1f}"
        for step, loss in zip(steps, losses, strict=True)
    )
    told = (
        f"Training loss, logarithmic: {math.exp(losses[0]):.3g} after step {steps[0]}, "
        f"{math.exp(losses[-1]):.3g} after step {steps[-1]}"
    )
    yield (
        f'<h2>Learning curve</h2><figure><svg role="img" aria-label="{told}" width="{CURVE_WIDTH}" '
        f'viewBox="-2 -2 {CURVE_WIDTH + 4} {CURVE_HEIGHT + 4}">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
        f"<figcaption>{told}</figcaption></figure>"
    )
