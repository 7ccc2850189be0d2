"""One question about one run, one SQL statement."""

import duckdb
import pandas as pd


def found(database: duckdb.DuckDBPyConnection, words: tuple[str, ...], limit: int) -> pd.DataFrame:
    """The newest record of each run that has all of these words in its names, at most `limit` of them."""
    return database.execute(
        """
        SELECT run_id, exact_name AS backbone, registers, seed, task FROM newest
        WHERE NOT EXISTS (
            SELECT 1 FROM unnest($words::VARCHAR[]) asked(word) WHERE NOT contains(
                lower(concat_ws(' ', run_id, exact_name, registers, stages, 'seed ' || seed, task, third_party)), word
            )
        )
        ORDER BY task, exact_name, registers <> 'none', registers, seed, run_id LIMIT $limit
        """,
        {"words": list(words), "limit": limit},
    ).df()


def records(database: duckdb.DuckDBPyConnection, run_id: str) -> pd.DataFrame:
    """Every record of a run, the newest first, in full."""
    return database.execute(
        """
        SELECT *, exact_name AS name, CASE WHEN moments IS NULL THEN 'measured' ELSE 'verified' END AS badge
        FROM runs WHERE run_id = $run_id ORDER BY record_id DESC
        """,
        {"run_id": run_id},
    ).df()


def values(database: duckdb.DuckDBPyConnection, run_id: str, none_run_id: str) -> pd.DataFrame:
    """What the newest record of a run measured, beside the matched value of the newest run without registers.

    A value judges images where it `is_judged`; `base` is empty where none has the same comparability key, or the one
    that differs in nothing but guidance by registers.
    """
    return database.execute(
        """
        WITH valued AS (
            SELECT judged.run_id, m.* FROM judged JOIN measurements m USING (record_id)
            WHERE judged.run_id IN ($run_id, $none_run_id)
            QUALIFY row_number() OVER (PARTITION BY judged.run_id, m."key" ORDER BY m.record_id DESC) = 1
        )
        SELECT mine.title, mine.name, mine.value, mine.standard_error, base.value AS base,
               mine.value - base.value AS difference, mine.unit, mine.better, mine.num_images, mine.parts, mine.note,
               mine.basis IS NOT NULL AS is_judged, mine."key"
        FROM valued mine
        LEFT JOIN keys ON keys."key" = mine."key"
        LEFT JOIN valued base
            ON $run_id <> $none_run_id AND base.run_id = $none_run_id AND base."key" = keys.none_key
        WHERE mine.run_id = $run_id
        ORDER BY is_judged DESC, regexp_matches(mine.name, '^(fid|fd_)') DESC, mine.title, mine."key"
        """,
        {"run_id": run_id, "none_run_id": none_run_id},
    ).df()


def repeats(database: duckdb.DuckDBPyConnection, run_id: str) -> pd.DataFrame:
    """What every record of a run says of each judged number, the newest first."""
    return database.execute(
        """
        SELECT r.record_id, r.created, r.status, r."commit", r.device, m.title, m.value, m.standard_error, r.path
        FROM runs r LEFT JOIN measurements m ON m.record_id = r.record_id AND m.basis IS NOT NULL
        WHERE r.run_id = $run_id ORDER BY r.record_id DESC, m.title
        """,
        {"run_id": run_id},
    ).df()


def curve(database: duckdb.DuckDBPyConnection, run_id: str) -> pd.DataFrame:
    """The training loss of the newest record of a run."""
    return database.execute(
        """
        SELECT step, loss FROM loss_curves
        WHERE record_id = (SELECT record_id FROM newest WHERE run_id = $run_id) ORDER BY step
        """,
        {"run_id": run_id},
    ).df()
