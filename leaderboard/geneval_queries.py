"""What the page "Text to image" asks: every arm's score in every category, and what else was scored by these rules."""

from collections.abc import Mapping
from typing import Final

import duckdb
import pandas as pd

from harness.comparability import Key
from harness.metrics.geneval.prompt import TAGS
from leaderboard import queries
from leaderboard.differences import judged_arms
from leaderboard.queries import Board

# The macro mean over the categories: on GenEval's own prompts, and on those of the drawn shapes.
OFFICIAL, SHAPES = "geneval", "geneval_shapes"
OVERALLS: Final = (OFFICIAL, SHAPES)
OVERALL: Final = "overall"
IMAGES, PROMPTS = "image_accuracy", "prompt_accuracy"
# What a metric's name ends in -> what it is called here.
TITLES: Final[Mapping[str, str]] = {
    OVERALL: "Mean of six",
    **{tag: tag.replace("_", " ").replace("attr", "attribution").capitalize() for tag in TAGS},
    IMAGES: "Image accuracy",
    PROMPTS: "Prompt accuracy",
}
PERCENT: Final = 100.0

_OF_ARMS = [
    *("arm_id", "backbone", "registers", "label", "runs", "diverged", "measured", "mean", "mean_half_width"),
    *("pairs", "difference", "half_width", "verdict"),
]


def boards(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Which (task, protocol) have images that were scored by GenEval's rules, as `queries.boards`."""
    return database.execute(
        """
        WITH scored AS (SELECT record_id FROM measurements WHERE list_contains($overalls, name))
        SELECT task, protocol, count(*) AS records FROM (
            SELECT task, protocol FROM runs JOIN scored USING (record_id)
            UNION ALL
            SELECT newest.task, e.protocol FROM evaluations e JOIN scored USING (record_id)
            JOIN newest ON newest.run_id = e.run_id AND newest.protocol = e.protocol
        )
        GROUP BY ALL ORDER BY records DESC, task, protocol
        """,
        {"overalls": list(OVERALLS)},
    ).df()


def metrics(database: duckdb.DuckDBPyConnection, task: str, protocol: str) -> pd.DataFrame:
    """The macro means of a board, each by its key: other prompts, or another detector, are another key."""
    found = queries.metrics(database, task, protocol)
    return found[found["name"].isin(OVERALLS)].reset_index(drop=True)


def scores(database: duckdb.DuckDBPyConnection, board: Board, overall: str) -> pd.DataFrame:
    """A row for each arm and each of `TITLES` that it has, in percent; `board.key` is that of the macro mean.

    Columns: arm_id, backbone, registers, label, text, runs, diverged, category, measured, mean, low, high, half_width,
    interval, chance, pairs, difference, difference_half_width, verdict.  From `low` to `high` reaches the mean's 95 %
    interval: Student's t over seeds, and for one seed the bootstrap over prompts that its record has; `interval` says
    which.  `chance` is what the arm's images get that are judged by other prompts, empty where no record tells it.
    """
    keys = keys_of(queries.fields_of(database, board.key), overall)
    tables = [
        judged_arms(database, Board(board.task, board.protocol, key), _name(overall, category), "higher")[
            _OF_ARMS
        ].assign(category=category, key=key)
        for category, key in keys.items()
    ]
    measured = [each for each in tables if each["measured"].any()]
    table = pd.concat(measured or tables[:1], ignore_index=True)
    table = table.merge(_parts(database, list(keys.values())), how="left", on=["arm_id", "key"])
    table = table.merge(_texts(database, board), how="left", on="arm_id")
    table = table.rename(columns={"half_width": "difference_half_width"})
    over_seeds, over_prompts = table["mean_half_width"].notna(), table["measured"] == 1
    low = (table["mean"] - table["mean_half_width"]).where(over_seeds, table["low"].where(over_prompts))
    high = (table["mean"] + table["mean_half_width"]).where(over_seeds, table["high"].where(over_prompts))
    interval = pd.Series("", table.index).mask(over_seeds, "seeds").mask(~over_seeds & low.notna(), "prompts")
    table = table.assign(low=low, high=high, interval=interval, half_width=(high - low) / 2)
    shares = ["mean", "low", "high", "half_width", "chance", "difference", "difference_half_width"]
    table[shares] *= PERCENT
    return table.drop(columns=["key", "mean_half_width"])


def keys_of(fields: str, overall: str) -> dict[str, str]:
    """The comparability key of each of `TITLES`, from that of the macro mean: they share all but the metric's name."""
    mine = Key.model_validate_json(fields)
    return {category: mine.model_copy(update={"metric": _name(overall, category)}).digest for category in TITLES}


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """`scores` with one row for each arm: the columns of a category have its name before theirs, "counting mean"."""
    of_arms = ["arm_id", "backbone", "registers", "label", "text", "runs", "diverged"]
    rows = table.drop_duplicates("arm_id")[of_arms].reset_index(drop=True)
    for category in TITLES:
        mine = table[table["category"] == category].drop(columns=[*of_arms[1:], "category"])
        rows = rows.merge(mine.add_prefix(f"{category} ").rename(columns={f"{category} arm_id": "arm_id"}), how="left")
    return rows


def elsewhere(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Images that came from elsewhere and were scored by GenEval's rules, in percent: a row each, never ranked."""
    found = database.execute(
        """
        SELECT e.record_id, e.title, m.name, m.value, m.standard_error, m.num_images, m.extractor, e.declared, e.path
        FROM evaluations e JOIN measurements m USING (record_id)
        WHERE e.run_id IS NULL AND regexp_matches(m.name, '^geneval(_|$)') ORDER BY e.created DESC, m.name
        """
    ).df()
    rows = found.drop_duplicates("record_id")[["record_id", "title", "num_images", "extractor", "declared", "path"]]
    for overall in sorted(OVERALLS, key=len, reverse=True):
        for category, title in TITLES.items():
            mine = found[found["name"] == _name(overall, category)].set_index("record_id")["value"]
            values = rows["record_id"].map(mine) * PERCENT
            rows[title] = rows[title].fillna(values) if title in rows else values
    return rows.drop(columns="record_id").dropna(axis="columns", how="all").reset_index(drop=True)


def judged_runs(database: duckdb.DuckDBPyConnection, board: Board) -> pd.DataFrame:
    """The runs of a board that have a value, by their ids, and the paths of their newest records."""
    return queries.runs(database, board).dropna(subset=["value"])[["run_id", "path"]]


def _name(overall: str, category: str) -> str:
    return overall if category == OVERALL else f"{overall}_{category}"


def _parts(database: duckdb.DuckDBPyConnection, keys: list[str]) -> pd.DataFrame:
    """Of every arm and key the bootstrap's interval of one of its runs, and the mean of their chance levels."""
    return database.execute(
        """
        WITH valued AS (
            SELECT run_id, m."key", m.parts FROM judged JOIN measurements m USING (record_id)
            WHERE list_contains($keys, m."key")
            QUALIFY row_number() OVER (PARTITION BY run_id, m."key" ORDER BY record_id DESC) = 1
        )
        SELECT arm_id, "key", any_value(CAST(parts ->> '$.low' AS DOUBLE)) AS low,
               any_value(CAST(parts ->> '$.high' AS DOUBLE)) AS high,
               avg(CAST(parts ->> '$.chance' AS DOUBLE)) AS chance
        FROM valued JOIN newest USING (run_id) GROUP BY ALL
        """,
        {"keys": keys},
    ).df()


def _texts(database: duckdb.DuckDBPyConnection, board: Board) -> pd.DataFrame:
    """How prompts reach each arm's denoiser: "cross-attention, words"."""
    return database.execute(
        """
        SELECT arm_id, nullif(concat_ws(', ', any_value(config ->> '$.text.entry'),
                                        any_value(config ->> '$.text.encoder')), '') AS text
        FROM newest WHERE task = $task AND protocol = $protocol GROUP BY arm_id
        """,
        {"task": board.task, "protocol": board.protocol},
    ).df()
