"""The page "Leaderboard": runs that may be compared, and how sure we are of what registers do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import streamlit as st

from harness.comparability import Key
from harness.intervals import PUBLISHED_VARIATION
from leaderboard import charts, queries
from leaderboard.differences import intervals
from leaderboard.queries import Board
from leaderboard.view import View

TABLE_HEIGHT = 320
GREY = "#8a8a8a"
SHOWN = ["backbone", "registers", "stages", "count", "start_block", "seed", "status", "value", "difference", "gflops"]


@dataclass(frozen=True)
class Choice:
    """The board that is looked at, and what its values are."""

    board: Board
    metric: str
    title: str
    better: str
    unit: str


def show(view: View) -> None:
    """Draw the page."""
    st.title("DSR-Bench")
    st.markdown("Do register tokens help a diffusion transformer: which kind, where, how many, at what cost?")
    database, results = view.database, view.results
    boards = queries.boards(database)
    if boards.empty:
        st.info("No results yet. Start with `python -m harness run --backbone sit --registers dsr`.")
    else:
        _show_board(database, _choose(database, boards), results)
    _show_evaluations(queries.evaluations(database))
    _show_published(queries.published(database))
    _show_problems(queries.problems(database))


def _show_board(database: duckdb.DuckDBPyConnection, chosen: Choice, results: Path) -> None:
    """Everything about runs that may be compared."""
    runs = _filtered(queries.runs(database, chosen.board))
    direction = "" if chosen.better == "neither" else f"; {chosen.better} is better"
    st.caption(f"{chosen.title}: {chosen.unit}{direction}")
    if runs.empty:
        st.info("No run passes these filters.")
        return
    left, right = st.columns([3, 2])
    with left:
        arms = _with_intervals(queries.arms(database, chosen.board), chosen.metric)
        _show_arms(arms[arms["backbone"].isin(runs["backbone"]) & arms["registers"].isin(runs["registers"])])
    with right:
        st.subheader("Quality against cost")
        measured = runs.dropna(subset=["value", "gflops"])
        columns = ["backbone", "registers", "stages", "seed", "value", "difference", "gflops", "run_id"]
        st.altair_chart(charts.quality_against_gflops(measured[columns], chosen.title, chosen.better))
    _show_runs(runs)
    _show_not_compared(database, chosen.board.key)
    _show_run(database, runs, results)


def _choose(database: duckdb.DuckDBPyConnection, boards: pd.DataFrame) -> Choice:
    """What the sidebar says; its widgets come in this order."""
    task = str(st.sidebar.selectbox("Task", list(boards["task"].unique())))
    protocols = list(boards[boards["task"] == task]["protocol"])
    protocol = str(st.sidebar.selectbox("Protocol", protocols, help="Values are compared within one protocol only."))
    metrics = queries.metrics(database, task, protocol).set_index("key")
    titles = _told_apart(metrics["title"])
    if not titles:
        return Choice(Board(task, protocol, ""), "", "nothing measured", "neither", "no run measured anything")
    key = str(st.sidebar.selectbox("Metric", list(titles), format_func=titles.__getitem__))
    name, better, unit = (str(metrics[column][key]) for column in ("name", "better", "unit"))
    return Choice(Board(task, protocol, key), name, titles[key], better, unit)


def _told_apart(titles: pd.Series) -> dict[str, str]:
    """A heading for each key; two keys that would be called the same show a part of their digest."""
    doubles = set(titles[titles.duplicated()])
    return {str(key): f"{title} [{str(key)[:6]}]" if title in doubles else str(title) for key, title in titles.items()}


def _filtered(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that pass the sidebar's filters; an empty filter lets everything pass."""
    for column in ("backbone", "registers", "status", "seed"):
        wanted = st.sidebar.multiselect(column.capitalize(), sorted(runs[column].unique()))
        if wanted:
            runs = runs[runs[column].isin(wanted)]
    return runs


def _with_intervals(arms: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Arms with how sure their differences are, which takes all of them."""
    found = intervals(arms, metric)
    arms = arms.copy()
    arms["± 95 %"] = [each.half_width if each else None for each in found]
    arms["shows nothing"] = [each is None or each.shows_nothing for each in found]
    return arms


def _show_arms(arms: pd.DataFrame) -> None:
    st.subheader("Arms: mean over seeds, difference to none")
    shown = arms[["backbone", "registers", "mean", "difference", "± 95 %", "runs", "deviation", "diverged", "stages"]]
    grey = [f"color: {GREY}" if shows_nothing else "" for shows_nothing in arms["shows nothing"]]
    styled = shown.style.apply(lambda _: grey, subset=["difference"]).apply(lambda _: grey, subset=["± 95 %"])
    st.dataframe(styled, hide_index=True, column_config=_rounded("mean", "deviation", "difference", "± 95 %"))
    st.caption(
        "A difference is taken seed by seed to the run without registers that is equal in everything else; ± 95 % is "
        "Student's t over those pairs. One seed of a Fréchet distance gets what repeated arms of this board vary by, "
        f"and not less than {PUBLISHED_VARIATION:.1%} of each value (arXiv 2606.20536). Grey: zero is inside, or "
        "nothing is known: that shows nothing. "
        "All seeds count here, and the newest record of a run, never the best."
    )


def _show_runs(runs: pd.DataFrame) -> None:
    st.subheader("Runs")
    shown = runs[[*SHOWN, "run_id", "created"]]
    st.dataframe(shown, hide_index=True, height=TABLE_HEIGHT, column_config=_rounded("value", "difference", "gflops"))


def _show_not_compared(database: duckdb.DuckDBPyConnection, key: str) -> None:
    """The values of this metric that stand on other boards, and what forbids to put them on this one."""
    others = queries.others(database, key) if key else pd.DataFrame()
    if others.empty:
        return
    mine = Key.model_validate_json(queries.fields_of(database, key))
    reasons = [mine.differences(Key.model_validate_json(fields)) for fields in others["fields"]]
    others["not comparable, because"] = ["; ".join(reason) for reason in reasons]
    with st.expander(f"Not compared with these: {others['records'].sum()} values of the same metric elsewhere"):
        st.dataframe(others[["title", "task", "records", "not comparable, because"]], hide_index=True)


def _show_evaluations(evaluations: pd.DataFrame) -> None:
    if not evaluations.empty:
        st.subheader("Images from elsewhere")
        st.dataframe(evaluations, hide_index=True, column_config=_rounded("value", "standard_error"))
        st.caption("Scored here by `python -m harness eval`; conditions as declared. Never ranked with runs.")


def _show_published(published: pd.DataFrame) -> None:
    if not published.empty:
        with st.expander(f"Published: {len(published)} quoted figures, never ranked with what was measured here"):
            st.dataframe(published, hide_index=True)


def _show_run(database: duckdb.DuckDBPyConnection, runs: pd.DataFrame, results: Path) -> None:
    st.subheader("One run")
    titles = {
        row.record_id: f"{row.backbone}, registers {row.registers}, seed {row.seed} ({row.run_id})"
        for row in runs.itertuples()
    }
    record_id = str(st.selectbox("Run", list(titles), format_func=titles.__getitem__))
    run = runs[runs["record_id"] == record_id].iloc[0]
    left, right = st.columns(2)
    with left:
        _show_samples(run, results)
    with right:
        st.dataframe(queries.measurements(database, record_id)[["title", "value", "unit"]], hide_index=True)
        statistics = queries.outliers(database, record_id)
        if not statistics.empty:
            st.markdown("**Outlier tokens**: largest patch-token norm over the median, mean over images")
            st.altair_chart(charts.outlier_map(statistics))
    with st.expander("Configuration and provenance"):
        st.text(str(run["path"]))
        st.json(run["circumstances"], expanded=False)
        st.json(run["config"], expanded=False)
        st.json(run["provenance"], expanded=False)


def _show_samples(run: pd.Series, results: Path) -> None:
    if pd.isna(run["samples"]):
        st.info("This run made no samples." if run["status"] == "finished" else "This run diverged: no samples.")
        return
    picture = results / str(run["samples"])
    if picture.is_file():
        st.image(str(picture), caption="Samples, a row per class, none picked", width="stretch")
    else:
        st.warning(f"The picture {run['samples']} is missing.")


def _show_problems(problems: pd.DataFrame) -> None:
    if not problems.empty:
        with st.expander(f"{len(problems)} malformed files were left out"):
            st.dataframe(problems, hide_index=True)


def _rounded(*columns: str) -> dict[str, Any]:
    return {column: st.column_config.NumberColumn(format="%.4g") for column in columns}
