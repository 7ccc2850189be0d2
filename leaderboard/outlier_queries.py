"""What the page "Outliers" asks: the token norms of one record, and what they mean by the bench's rule."""

from dataclasses import dataclass

import duckdb
import pandas as pd

from harness.outlier_records import RULE, OutlierStatistics, Verdict, verdict_of, worst_of
from leaderboard import queries
from leaderboard.queries import Board


@dataclass(frozen=True)
class Place:
    """On which board a run stands."""

    task: str
    protocol: str


def place_of(database: duckdb.DuckDBPyConnection, run_id: str) -> Place | None:
    """The board of a run; None where the database does not hold it."""
    found = database.execute("SELECT task, protocol FROM newest WHERE run_id = $run_id", {"run_id": run_id}).fetchone()
    return None if found is None else Place(*map(str, found))


def largest(database: duckdb.DuckDBPyConnection, board: Board) -> str | None:
    """The run of a board in which a patch is furthest above the median of its image; None where none was probed.

    A run with registers comes first, for it has something to stand beside, and of those one with norm maps; older
    records, which do not say in how many images, come last.
    """
    found = database.execute(
        """
        SELECT run_id FROM runs JOIN outliers USING (record_id)
        WHERE task = $task AND protocol = $protocol
        QUALIFY record_id = max(record_id) OVER (PARTITION BY run_id)
        ORDER BY registers = 'none', norm_maps IS NULL, images_above_3x IS NULL, max_over_median DESC, run_id LIMIT 1
        """,
        {"task": board.task, "protocol": board.protocol},
    ).fetchone()
    return None if found is None else str(found[0])


def statistics(database: duckdb.DuckDBPyConnection, record_id: str) -> list[OutlierStatistics]:
    """What one record says of its token norms, block by block and noise level by noise level."""
    rows = queries.outliers(database, record_id).astype(object).to_dict("records")
    known = ({name: None if pd.isna(value) else value for name, value in row.items()} for row in rows)
    return [OutlierStatistics.model_validate(row) for row in known]


def verdict_in_words(found: list[OutlierStatistics]) -> tuple[Verdict, str]:
    """The verdict by `RULE`, and a sentence on what it rests on."""
    verdict, worst = verdict_of(found), worst_of(found)
    if worst is None:
        return verdict, "This record holds no token norms."
    largest_norm = (
        f"The largest patch norm is {worst.max_over_median:.3g} times the median of its image (mean over images), "
        f"after block {worst.block} at t = {worst.time:g}."
    )
    if verdict == "not measured":
        return verdict, f"{largest_norm} This older record does not say in how many images, which the rule asks."
    above = sum(each.has_outliers is True for each in found)
    where = f" That is so at {above} of {len(found)} blocks and noise levels." if above else ""
    return verdict, f"{largest_norm}{where}"


def rule() -> str:
    """The rule that says whether there are outliers."""
    return f"There are outliers where {RULE.removeprefix('outliers: ')}."


def table(found: list[OutlierStatistics], name: str) -> pd.DataFrame:
    """A row for each block and noise level, under the name of its run."""
    columns = list(OutlierStatistics.model_fields)
    return pd.DataFrame([each.model_dump() for each in found], columns=columns).assign(run=name)
