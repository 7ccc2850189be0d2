"""One question, one SQL statement."""

import duckdb
import pandas as pd

# A run that was repeated has several records: the newest counts, never the best.
_LATEST = """
WITH latest AS (
    SELECT * FROM runs QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY record_id DESC) = 1
),
measured AS (
    SELECT latest.run_id, m.value FROM latest JOIN measurements m USING (record_id) WHERE m.name = $metric
),
gflops AS (
    SELECT latest.run_id, m.value AS gflops FROM latest JOIN measurements m USING (record_id) WHERE m.name = 'gflops'
)
"""

# The difference to `none` exists only where a run differs from the other in nothing but its registers.
_COMPARED = (
    _LATEST
    + """,
compared AS (
    SELECT latest.*, measured.value, gflops.gflops,
           CASE WHEN registers <> 'none' THEN measured.value - base.value END AS difference
    FROM latest
    LEFT JOIN measured USING (run_id)
    LEFT JOIN gflops USING (run_id)
    LEFT JOIN measured base ON base.run_id = latest.none_run_id
    WHERE task = $task AND protocol = $protocol
)
"""
)


def boards(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Which (task, protocol) there are, and how many records each has: nothing is compared across them."""
    return database.execute(
        "SELECT task, protocol, count(*) AS records FROM runs GROUP BY ALL ORDER BY records DESC, task, protocol"
    ).df()


def metrics(database: duckdb.DuckDBPyConnection, task: str, protocol: str) -> pd.DataFrame:
    """The metrics of a board with their unit and direction, those that judge images first."""
    return database.execute(
        """
        SELECT m.name, any_value(m.unit) AS unit, any_value(m.better) AS better
        FROM measurements m JOIN runs USING (record_id)
        WHERE task = $task AND protocol = $protocol
        GROUP BY m.name
        ORDER BY bool_or(m.num_images IS NOT NULL) DESC, any_value(m.better) = 'lower' DESC, m.name
        """,
        {"task": task, "protocol": protocol},
    ).df()


def runs(database: duckdb.DuckDBPyConnection, task: str, protocol: str, metric: str) -> pd.DataFrame:
    """Every run of a board with its value, its difference to the matched run without registers, and its cost."""
    return database.execute(
        _COMPARED
        + """
        SELECT run_id, record_id, exact_name AS backbone, registers, stages, "count", start_block, seed, steps, status,
               value, difference, gflops, created, "commit", dirty, device, path, samples, config, provenance, notes
        FROM compared ORDER BY value NULLS LAST, record_id
        """,
        {"task": task, "protocol": protocol, "metric": metric},
    ).df()


def arms(database: duckdb.DuckDBPyConnection, task: str, protocol: str, metric: str) -> pd.DataFrame:
    """Each arm over its seeds: mean and standard deviation, and those of the differences, seed by seed, to `none`."""
    return database.execute(
        _COMPARED
        + """
        SELECT exact_name AS backbone, registers, any_value(stages) AS stages, any_value("count") AS "count",
               any_value(start_block) AS start_block, any_value(steps) AS steps, any_value(gflops) AS gflops,
               count(*) AS runs, count(*) FILTER (status = 'diverged') AS diverged,
               count(value) AS measured, avg(value) AS mean, stddev_samp(value) AS deviation,
               count(difference) AS pairs, avg(difference) AS difference,
               stddev_samp(difference) AS difference_deviation
        FROM compared GROUP BY arm_id, exact_name, registers
        ORDER BY exact_name, registers <> 'none', gflops, registers, arm_id
        """,
        {"task": task, "protocol": protocol, "metric": metric},
    ).df()


def measurements(database: duckdb.DuckDBPyConnection, record_id: str) -> pd.DataFrame:
    """Everything that one record measured."""
    return database.execute(
        "SELECT name, value, unit, better, num_images, note FROM measurements WHERE record_id = $record_id",
        {"record_id": record_id},
    ).df()


def outliers(database: duckdb.DuckDBPyConnection, record_id: str) -> pd.DataFrame:
    """The outlier statistics of one record, by block and noise level."""
    return database.execute(
        "SELECT * EXCLUDE (record_id) FROM outliers WHERE record_id = $record_id ORDER BY block, time",
        {"record_id": record_id},
    ).df()


def problems(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """The files that were left out when the database was built, and why."""
    return database.execute("SELECT path, reason FROM problems ORDER BY path").df()
