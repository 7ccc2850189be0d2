"""The exported board's page of text to image: what was measured by category, and what others published of it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import duckdb
import pandas as pd

from harness.metrics.geneval.prompt import TAGS
from leaderboard import geneval_charts, geneval_queries
from leaderboard.export_charts import figure
from leaderboard.export_html import Cell, document, escaped, number, table, words
from leaderboard.geneval_queries import IMAGES, OVERALL, SHAPES, TITLES
from leaderboard.geneval_quoted import CURVES, SCORES, Quoted, quoted
from leaderboard.geneval_scores import EMBEDDED, HOW_SURE, OF_QUOTED, WHAT, by_chance
from leaderboard.queries import Board

_SHOWN: Final = (OVERALL, *TAGS, IMAGES)


def page_of_geneval(database: duckdb.DuckDBPyConnection) -> bytes:
    """Every task and protocol that was scored by GenEval's rules, images from elsewhere, and quoted figures."""
    body = [f"<p>{escaped(WHAT, 400)}</p>"]
    boards = geneval_queries.boards(database)
    for task, protocol in zip(boards["task"], boards["protocol"], strict=True):
        body.append(f"<h2>{escaped(task)}</h2><p>Protocol: {escaped(protocol, 400)}.</p>")
        for metric in geneval_queries.metrics(database, task, protocol).to_dict("records"):
            body += _measured(database, Board(task, protocol, metric["key"]), metric)
    if boards.empty:
        body.append("<p>Nothing was scored by these rules yet.</p>")
    elsewhere = geneval_queries.elsewhere(database)
    if not elsewhere.empty:
        body += ["<h2>Images from elsewhere, in percent</h2>", _rows(elsewhere, "Images from elsewhere")]
    return document("Text to image", "\n".join([*body, *_quoted(quoted(database))]))


def _measured(database: duckdb.DuckDBPyConnection, board: Board, metric: Mapping[Any, Any]) -> Iterator[str]:
    """The arms of one comparability key."""
    found = geneval_queries.scores(database, board, metric["name"])
    yield f"<h3>{escaped(metric['title'])}</h3>"
    if metric["name"] == SHAPES:
        yield f"<p>{escaped(EMBEDDED, 400)}</p>"
    yield _arms(geneval_queries.wide(found))
    yield f'<p class="quiet">{escaped(by_chance(found), 400)}</p>'
    known = found[found["category"].isin([OVERALL, *TAGS])].dropna(subset=["mean"])
    known = known.assign(arm=known["backbone"] + " " + known["label"], title=known["category"].map(TITLES))
    for place, (backbone, mine) in enumerate(known.groupby("backbone", sort=False)):
        caption = f"{backbone}: right images by category, in percent. {HOW_SURE}"
        name = f"c{board.key}-{place}"
        yield figure(geneval_charts.by_category(mine[geneval_charts.READ]), caption, name)


def _arms(rows: pd.DataFrame) -> str:
    heads = ["backbone", "registers", "text", "seeds", "interval from", "shows"]
    heads += [f"{TITLES[each]}{end}" for each in _SHOWN for end in (" %", ", ± 95 %", ", Δ none")]
    return table(heads, [_arm(row) for row in rows.to_dict("records")], "Right images of each arm, in percent")


def _arm(row: Mapping[Any, Any]) -> list[Cell]:
    cells = [words(row["backbone"]), words(row["label"]), words(row["text"]), number(row[f"{OVERALL} measured"], ".0f")]
    cells += [words(row[f"{OVERALL} interval"]), words(row[f"{OVERALL} verdict"])]
    for each in _SHOWN:
        cells.append(number(row[f"{each} mean"], ".1f"))
        cells.append(number(row[f"{each} half_width"], ".1f"))
        cells.append(number(row[f"{each} difference"], "+.1f"))
    return cells


def _quoted(found: Quoted) -> Iterator[str]:
    if found.models.empty and found.curves.empty:
        return
    yield "<h2>As quoted, not measured here</h2>"
    yield from (f"<p>{escaped(remark, 1000)}</p>" for remark in found.remarks)
    for metric, title in CURVES.items():
        curve = found.curves[found.curves["metric"] == metric].drop(columns="metric")
        if not curve.empty:
            caption = f"{title} over training steps, as quoted; hollow: its marker was partly hidden"
            yield figure(geneval_charts.quoted_curves(curve, title), caption, metric)
    if not found.models.empty:
        heads = ["publication", "model", "arm", *(f"{title} %" for title in SCORES.values())]
        rows = [_model(row) for row in found.models.to_dict("records")]
        yield table(heads, rows, "Quoted scores, in percent")
        yield f'<p class="quiet">{OF_QUOTED}</p>'


def _model(row: Mapping[Any, Any]) -> list[Cell]:
    return [words(row[name]) for name in ("publication", "model", "arm")] + [
        number(row[title], ".1f") for title in SCORES.values()
    ]


def _rows(found: pd.DataFrame, caption: str) -> str:
    is_score = [column in TITLES.values() for column in found.columns]
    rows = [
        [number(value, ".1f") if score else words(value) for value, score in zip(row, is_score, strict=True)]
        for row in found.itertuples(index=False)
    ]
    return table([str(column) for column in found.columns], rows, caption)
