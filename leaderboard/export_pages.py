"""The exported board's pages but those of runs: boards, claims, what is quoted, and what can be downloaded."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import pandas as pd

from harness.errors import UserError
from harness.intervals import COUNTED
from leaderboard import charts, compare_charts, queries
from leaderboard.claims import Judgement, judgements
from leaderboard.compare_queries import front
from leaderboard.differences import judged_arms
from leaderboard.export_charts import figure
from leaderboard.export_html import Cell, document, escaped, link, number, table, words
from leaderboard.export_runs import ShownRuns
from leaderboard.queries import Board

HOW_TO_READ: Final = (
    "Values are compared within one task, one protocol and one comparability key only. A difference is taken seed by "
    "seed to the run without registers that is equal in everything else; its 95 % interval is Student's t over those "
    "pairs. One seed of a Fréchet distance has the interval of what repeated arms vary by, and not less than the "
    "published 1.3 %. Where zero is inside, nothing is shown. Verified: the distances were computed again from "
    "submitted moments; measured: any other record of this bench; quoted figures stand on a page of their own, and "
    "are never ranked with these."
)

OF_DIFFERENCES: Final = ["name", "difference", "low", "high", "verdict", "pairs"]
OF_COSTS: Final = ["arm", "backbone", "registers", "mean", "deviation", "measured", "gflops"]


@dataclass(frozen=True)
class Heading:
    """A board with what its values are called."""

    board: Board
    metric: str
    title: str
    unit: str
    better: str

    @property
    def address(self) -> str:
        """The file of its page: from what it compares, so that it stays when further boards come."""
        told = "\n".join((self.board.task, self.board.protocol, self.board.key))
        return f"boards/{hashlib.sha256(told.encode()).hexdigest()[:12]}.html"


def first_page(database: duckdb.DuckDBPyConnection, runs: ShownRuns) -> bytes:
    """Of every task and protocol the board of its first metric, and the way to the others."""
    body = ["<p>Do register tokens help a diffusion transformer: which kind, where, how many, at what cost?</p>"]
    for group in _headings(database):
        task, protocol = group[0].board.task, group[0].board.protocol
        body.append(f"<h2>{escaped(task)}</h2><p>Protocol: {escaped(protocol, 400)}.</p>")
        body.append(f"<h3>{link(group[0].address, group[0].title)}</h3>")
        body.append(_arms(_judged(database, group[0]), group[0]))
        others = "".join(f"<li>{link(each.address, each.title)}, {escaped(each.unit)}</li>" for each in group)
        body.append(f"<p>Each metric with its charts and runs:</p><ul>{others}</ul>")
    if len(body) == 1:
        body.append("<p>No results yet.</p>")
    body.append(f'<p class="quiet">{escaped(HOW_TO_READ, 2000)}</p>')
    body.append(f'<p class="quiet">{escaped(runs.told)}</p>')
    return document("DSR-Bench", "\n".join(body))


def pages_of_boards(database: duckdb.DuckDBPyConnection, runs: ShownRuns) -> Iterator[tuple[str, bytes]]:
    """The page of every comparability key, by its address."""
    for group in _headings(database):
        for heading in group:
            yield heading.address, _page_of_board(database, heading, runs)


def page_of_claims(database: duckdb.DuckDBPyConnection, runs: ShownRuns) -> bytes:
    """What is claimed in publications, and what the runs here say about it."""
    try:
        _, judged = judgements(database)
    except UserError as error:
        return document("Claims", f"<p>{escaped(error.problem, 400)}.</p>")
    heads = ("claim", "task", "arms", "ours", "95 % interval", "claimed", "seeds", "verdict", "as published", "records")
    body = [
        "<p>Verdicts are of these runs alone; what follows at the published task, backbone, registers and length "
        "stands under “as published”.</p>",
        table(
            heads, [row for each in judged for row in _rows_of_claim(each, runs)], "Claims and what runs say of them"
        ),
        "<h2>The claims</h2>",
        *(_claim_in_words(each) for each in judged),
    ]
    return document("Claims", "\n".join(body))


def page_of_published(database: duckdb.DuckDBPyConnection) -> bytes:
    """Every quoted figure."""
    found = queries.published(database)
    columns = ("publication", "model", "registers", "metric", "value", "unit", "epochs", "guidance", "places", "read")
    body = "<p>Figures that others published, as they print them: quoted, never ranked with what was measured here.</p>"
    return document("Published", body + _plain_table(found[list(columns)], "Quoted figures"))


def page_of_data(database: duckdb.DuckDBPyConnection, tables: Mapping[str, int]) -> bytes:
    """Every table of the database as a file, and the files that were left out of it."""
    rows = [
        [Cell(link(f"data/{name}.parquet", f"{name}.parquet")), number(count, ",d")] for name, count in tables.items()
    ]
    body = "<p>Each table of the database, as Parquet.</p>" + table(("file", "rows"), rows, "Tables")
    problems = queries.problems(database)
    if not problems.empty:
        body += "<h2>Left out</h2><p>Files that are no valid records.</p>" + _plain_table(problems, "Files left out")
    return document("Data", body)


def _headings(database: duckdb.DuckDBPyConnection) -> Iterator[list[Heading]]:
    """The boards of every task and protocol that measured something."""
    for row in queries.boards(database).itertuples():
        task, protocol = str(row.task), str(row.protocol)
        metrics = queries.metrics(database, task, protocol).to_dict("records")
        if metrics:
            yield [
                Heading(Board(task, protocol, each["key"]), each["name"], each["title"], each["unit"], each["better"])
                for each in metrics
            ]


def _page_of_board(database: duckdb.DuckDBPyConnection, heading: Heading, runs: ShownRuns) -> bytes:
    direction = "" if heading.better == "neither" else f"; {heading.better} is better"
    arms = _judged(database, heading)
    body = [
        f"<p>Task {escaped(heading.board.task)}. Protocol: {escaped(heading.board.protocol, 400)}. "
        f"Unit: {escaped(heading.unit)}{direction}. Comparability key {escaped(heading.board.key)}.</p>",
        "<h2>Arms: mean over seeds, difference to none</h2>",
        _arms(arms, heading),
        *_charts(arms, heading),
        "<h2>Runs</h2>",
        f'<p class="quiet">{escaped(runs.told)}</p>',
        _runs(database, heading, runs),
        f'<p class="quiet">{escaped(HOW_TO_READ, 2000)}</p>',
    ]
    return document(heading.title, "\n".join(body), root="../")


def _judged(database: duckdb.DuckDBPyConnection, heading: Heading) -> pd.DataFrame:
    return judged_arms(database, heading.board, heading.metric, heading.better)


def _arms(arms: pd.DataFrame, heading: Heading) -> str:
    heads = (
        *("backbone", "registers", "mean", "± over seeds", "difference to none", "± 95 %", "shows", "seeds"),
        *("diverged", "badge", "GFLOPs", "parameters", "NFE", "images/s"),
    )
    rows = [_arm(arm) for arm in arms.to_dict("records")]
    return table(heads, rows, f"{heading.title} of each arm, {heading.unit}")


def _arm(arm: Mapping[Any, Any]) -> list[Cell]:
    return [
        words(arm["backbone"] + (f" ({arm['third_party']}, third party)" if arm["third_party"] else "")),
        words(arm["label"]),
        number(arm["mean"]),
        number(arm["deviation"], ".2g"),
        number(arm["difference"], "+.3g"),
        number(arm["half_width"], ".2g"),
        words(arm["verdict"]),
        number(arm["measured"], "d"),
        number(arm["diverged"], "d"),
        words(arm["badge"]),
        number(arm["gflops"]),
        number(arm["parameters"], ",.0f"),
        number(arm["nfe"], "g"),
        number(arm["images_per_second"], ".3g"),
    ]


def _charts(arms: pd.DataFrame, heading: Heading) -> Iterator[str]:
    """What registers change, and what quality costs; of what is counted there is nothing to draw."""
    if heading.metric in COUNTED:
        return
    arms["arm"] = arms["name"] = arms["backbone"] + " " + arms["label"]
    changed = arms.dropna(subset=["difference"])[OF_DIFFERENCES]
    if not changed.empty:
        yield "<h2>What registers change</h2>"
        caption = f"Difference to none in {heading.title}, with its 95 % interval"
        yield figure(charts.differences(changed, "difference to none"), caption, "differences")
    measured = arms.dropna(subset=["mean", "gflops"])[OF_COSTS]
    if not measured.empty:
        yield "<h2>Quality against cost</h2>"
        on_front = front(measured, heading.better)
        chart = compare_charts.quality_against_gflops(measured, on_front, heading.title, heading.better)
        yield figure(chart, f"{heading.title} against the GFLOPs of one forward pass; dashed: the Pareto front", "cost")


def _runs(database: duckdb.DuckDBPyConnection, heading: Heading, runs: ShownRuns) -> str:
    heads = ("run", "backbone", "registers", "seed", "status", "value", "difference to none", "badge", "created")
    found = queries.runs(database, heading.board)
    found = found[found["run_id"].isin(runs.ids)].sort_values(["backbone", "registers", "seed", "run_id"])
    rows = [
        [
            Cell(runs.link(run["run_id"], root="../")),
            words(run["backbone"]),
            words(run["registers"]),
            number(run["seed"], "d"),
            words(run["status"]),
            number(run["value"], ".6g"),
            number(run["difference"], "+.4g"),
            words(run["badge"]),
            words(f"{run['created']:%Y-%m-%d %H:%M}"),
        ]
        for run in found.to_dict("records")
    ]
    return table(heads, rows, f"Runs with their {heading.title}")


def _rows_of_claim(judgement: Judgement, runs: ShownRuns) -> Iterator[list[Cell]]:
    claim = words(judgement.claim.id)
    if not judgement.rows:
        none = [words("")] * 6
        yield [claim, *none, words("not yet measured"), words(judgement.verdict), words("")]
    for row in judgement.rows:
        yield [
            claim,
            words(row.task),
            words(f"{row.backbone}: {row.arm}{f' - {row.against}' if row.against else ''}, {row.title}"),
            number(row.mean, "+.4g" if row.against else ".4g"),
            words(row.interval_in_words),
            words(row.bounds_in_words),
            number(len(row.pairs), "d"),
            words(row.verdict if not row.below_scale else f"{row.verdict} ({row.below_scale[0]})"),
            words(judgement.verdict),
            Cell(", ".join(runs.link(pair.run.run_id) for pair in row.pairs if pair.run.run_id in runs.ids)),
        ]


def _claim_in_words(judgement: Judgement) -> str:
    claim = judgement.claim
    disputed = f" Disputed by {escaped(', '.join(claim.disputed_by))}." if claim.disputed_by else ""
    return (
        f"<h3>{escaped(claim.id)}</h3><p>{escaped(claim.text, 2000)} [{escaped(claim.source)}"
        f"{', ' + escaped(claim.place) if claim.place else ''}] Tested by: {escaped(claim.test.words, 1000)}. "
        f"At the published scale: {judgement.verdict}.{disputed} {escaped(claim.note, 2000)}</p>"
    )


def _plain_table(found: pd.DataFrame, caption: str) -> str:
    """A data frame as it is."""
    is_numeric = {column: pd.api.types.is_numeric_dtype(found[column]) for column in found.columns}
    rows = [
        [number(row[column], "g") if is_numeric[column] else words(row[column]) for column in found.columns]
        for row in found.to_dict("records")
    ]
    return table([str(column) for column in found.columns], rows, caption)
