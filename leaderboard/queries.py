"""One question, one SQL statement."""

from dataclasses import asdict, dataclass

import duckdb
import pandas as pd

_VALUED = """
WITH valued AS (
    SELECT run_id, "key", value, standard_error FROM judged JOIN measurements USING (record_id)
    QUALIFY row_number() OVER (PARTITION BY run_id, "key" ORDER BY record_id DESC) = 1
),
measured AS (SELECT * FROM valued WHERE "key" = $key),
unregistered AS (SELECT * FROM valued WHERE "key" = (SELECT none_key FROM keys WHERE "key" = $key)),
costs AS (
    SELECT newest.run_id,
           max(m.value) FILTER (m.name = 'gflops') AS gflops,
           max(m.value) FILTER (m.name = 'parameters') AS parameters,
           max(m.value) FILTER (m.name = 'nfe') AS nfe,
           max(m.value) FILTER (m.name = 'training_images_per_second') AS images_per_second
    FROM newest JOIN measurements m USING (record_id)
    WHERE m.name IN ('gflops', 'parameters', 'nfe', 'training_images_per_second')
    GROUP BY newest.run_id
)
"""

# The difference to `none` exists only where a run differs from the other in nothing but its registers, and where both
# have a value of the same comparability key, or of one that differs in nothing but guidance by those registers.
_COMPARED = (
    _VALUED
    + """,
compared AS (
    SELECT newest.*, measured.value, measured.standard_error,
           costs.gflops, costs.parameters, costs.nfe, costs.images_per_second,
           CASE WHEN moments IS NULL THEN 'measured' ELSE 'verified' END AS badge,
           CASE WHEN registers <> 'none' THEN measured.value - base.value END AS difference,
           CASE WHEN registers <> 'none' THEN base.value END AS base
    FROM newest
    LEFT JOIN measured USING (run_id)
    LEFT JOIN costs USING (run_id)
    LEFT JOIN unregistered base ON base.run_id = newest.none_run_id
    WHERE task = $task AND protocol = $protocol
)
"""
)


@dataclass(frozen=True)
class Board:
    """Values that may be compared: one task, one set of conditions (`protocol`), one comparability key."""

    task: str
    protocol: str
    key: str


def boards(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Which (task, protocol) there are, and how many records each has: nothing is compared across them."""
    return database.execute(
        "SELECT task, protocol, count(*) AS records FROM runs GROUP BY ALL ORDER BY records DESC, task, protocol"
    ).df()


def metrics(database: duckdb.DuckDBPyConnection, task: str, protocol: str) -> pd.DataFrame:
    """The columns of a board, each one key, with unit and direction: those that judge images first."""
    return database.execute(
        """
        WITH judged AS (
            SELECT record_id, run_id FROM runs WHERE task = $task AND protocol = $protocol
            UNION ALL
            SELECT e.record_id, e.run_id FROM evaluations e
            WHERE protocol = $protocol AND e.run_id IN (SELECT run_id FROM runs WHERE task = $task)
        )
        SELECT m."key", any_value(m.name) AS name, any_value(m.title) AS title, any_value(m.unit) AS unit,
               any_value(m.better) AS better, count(*) AS records
        FROM measurements m JOIN judged USING (record_id)
        GROUP BY m."key"
        ORDER BY bool_or(m.basis IS NOT NULL) DESC, regexp_matches(any_value(m.name), '^(fid|fd_)') DESC,
                 regexp_matches(any_value(m.name), '^geneval(_shapes)?$') DESC,
                 any_value(m.better) = 'lower' DESC, title, records DESC, m."key"
        """,
        {"task": task, "protocol": protocol},
    ).df()


def others(database: duckdb.DuckDBPyConnection, key: str) -> pd.DataFrame:
    """The other comparability keys of the same metric, with how many values each has: what is not compared here."""
    return database.execute(
        """
        SELECT keys."key", keys.title, keys.task, keys.fields, count(*) AS records
        FROM keys JOIN measurements USING ("key")
        WHERE keys.name = (SELECT name FROM keys WHERE "key" = $key) AND keys."key" <> $key
        GROUP BY ALL ORDER BY records DESC, keys."key"
        """,
        {"key": key},
    ).df()


def fields_of(database: duckdb.DuckDBPyConnection, key: str) -> str:
    """A comparability key in full, as JSON."""
    found = database.execute('SELECT fields FROM keys WHERE "key" = $key', {"key": key}).fetchone()
    assert found is not None, "a key that the database does not hold"
    return str(found[0])


def runs(database: duckdb.DuckDBPyConnection, board: Board) -> pd.DataFrame:
    """Every run of a board with its value, its difference to the matched run without registers, and its cost.

    `badge` is "verified" where the moments lie beside the record, which is merged only after its distances were
    computed again from them, else "measured".
    """
    return database.execute(
        _COMPARED
        + """
        SELECT run_id, record_id, arm_id, exact_name AS backbone, registers, stages, "count", start_block, seed, steps,
               status, value, standard_error, difference, base, badge, third_party, gflops, parameters, nfe,
               images_per_second, device, created, "commit", dirty, path, notes
        FROM compared ORDER BY value NULLS LAST, record_id
        """,
        asdict(board),
    ).df()


def arms(database: duckdb.DuckDBPyConnection, board: Board) -> pd.DataFrame:
    """Each arm over its seeds: mean and standard deviation, and those of the differences, seed by seed, to `none`.

    An arm is "verified" where all of its runs are.  It `has_tokens` where it has registers that hold something, as
    controls and changes without tokens have not.
    """
    return database.execute(
        _COMPARED
        + """
        SELECT arm_id, any_value(none_arm_id) AS none_arm_id, exact_name AS backbone, registers,
               any_value(treatment) AS treatment, any_value(stages) AS stages, any_value("count") AS "count",
               json_type(any_value(config), '$.registers.encoder') = 'OBJECT'
                   OR coalesce(any_value(config) ->> '$.registers.denoiser.content', 'zero') <> 'zero' AS has_tokens,
               any_value(start_block) AS start_block, any_value(steps) AS steps, any_value(gflops) AS gflops,
               any_value(parameters) AS parameters, any_value(nfe) AS nfe,
               median(images_per_second) AS images_per_second, any_value(third_party) AS third_party,
               min(badge) AS badge,
               count(*) AS runs, count(*) FILTER (status = 'diverged') AS diverged,
               count(value) AS measured, avg(value) AS mean, stddev_samp(value) AS deviation,
               count(difference) AS pairs, avg(difference) AS difference,
               stddev_samp(difference) AS difference_deviation, avg(base) FILTER (value IS NOT NULL) AS base
        FROM compared GROUP BY arm_id, exact_name, registers
        ORDER BY exact_name, registers <> 'none', gflops, registers, arm_id
        """,
        asdict(board),
    ).df()


def evaluations(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Every value of images that came from elsewhere, with what was declared of them: never ranked with runs."""
    return database.execute(
        """
        SELECT e.title, m.title AS metric, m.value, m.standard_error, m.num_images, m.unit, e.protocol, e.declared,
               e.created, e.path
        FROM evaluations e JOIN measurements m USING (record_id)
        WHERE e.run_id IS NULL ORDER BY e.created DESC, m.title
        """
    ).df()


def published(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """Every quoted figure with its source: shown, never ranked with what was measured."""
    return database.execute(
        """
        SELECT title AS publication, model, arm AS registers, metric, value, spread, unit, epochs, guidance, reference,
               confirmed, places, "read", arxiv, url, note
        FROM published ORDER BY title, model, metric, arm
        """
    ).df()


def measurements(database: duckdb.DuckDBPyConnection, record_id: str) -> pd.DataFrame:
    """Everything that one record measured: what judges images first."""
    return database.execute(
        """
        SELECT title, name, value, standard_error, unit, better, num_images, parts, note, "key"
        FROM measurements WHERE record_id = $record_id
        ORDER BY basis IS NULL, regexp_matches(name, '^(fid|fd_)') DESC, title, "key"
        """,
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


def withdrawn(database: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """The records that were taken back, and why."""
    return database.execute("SELECT created, path, reason FROM withdrawn ORDER BY created DESC, path").df()
