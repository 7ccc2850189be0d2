"""The page "Leaderboard": whether registers help, then the arms and runs that say so."""

from typing import Final

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from harness.comparability import Key
from harness.intervals import COUNTED, PUBLISHED_VARIATION
from leaderboard import links, queries
from leaderboard.answers import cached
from leaderboard.choice import Choice, choose
from leaderboard.differences import OF_THE_MACHINE, judged_arms, treatments
from leaderboard.filters import filtered
from leaderboard.findings import SHOWN, costs, findings, summary
from leaderboard.listing import Column, listing, shortened
from leaderboard.text import plain, short
from leaderboard.view import View

IN_THE_CHART: Final = 60
OF_IMAGES: Final = 1.96
QUESTION: Final = "Do register tokens help a diffusion transformer: which kind, where, how many, at what cost?"
BADGES: Final = (
    "measured: a record of this repository. verified: its distances were computed again from the features' moments "
    "before it was merged. What others published is quoted, and stands apart below."
)
THIRD_PARTY: Final = "The file of the backbone, where it is no part of this repository."
COSTS: Final = (
    Column("gflops", "GFLOPs", "Of one forward pass: 2 x multiply-adds, batch 1, without guidance.", "number"),
    Column("parameters", "Parameters", "Of the denoiser.", "number", "compact"),
    Column("nfe", "NFE", "Forward passes of an image's sampling.", "number", "%d"),
    Column(
        "images_per_second",
        "Train images/s",
        "Of wall clock, on whatever machine trained it: no comparison between machines.",
        "number",
    ),
)
OF_ARMS: Final = (
    Column("backbone", "Backbone"),
    Column("label", "Registers"),
    Column("verdict", "Shows", "Helps or harms where zero lies outside the interval; one seed is no more than a hint."),
    Column("difference", "Δ none", "Mean difference to the matched runs without registers, seed by seed.", "number"),
    Column("half_width", "± 95 %", "Half of the difference's 95 % interval.", "number", "%.2g"),
    Column("percent", "Δ %", "Of the mean without registers.", "number", "%+.2g"),
    Column("pairs", "Pairs", "Seeds that have a value with registers and without.", "number", "%d"),
    Column("method", "Interval from", "seeds: Student's t. prior: one seed, by what others vary. counted: exact."),
    Column("mean", "Mean", "Over seeds; the newest record of a run, never the best.", "number"),
    Column("mean_half_width", "Mean ± 95 %", "Student's t over seeds.", "number", "%.2g", is_usual=False),
    Column("deviation", "± sd", "Sample standard deviation over seeds.", "number"),
    Column("runs", "Seeds", "Runs of the arm, diverged ones too.", "number", "%d"),
    Column("diverged", "Diverged", "Runs whose training diverged.", "number", "%d"),
    Column("badge", "Badge", BADGES),
    Column("third_party", "Third party", THIRD_PARTY),
    *COSTS,
    Column("stages", "Stages", "What the run really has.", is_usual=False),
    Column("count", "Count", "Registers in the denoiser.", "number", "%d", is_usual=False),
    Column("start_block", "Start", "The block before which they enter.", "number", "%d", is_usual=False),
    Column("steps", "Steps", "Of training.", "number", "%d", is_usual=False),
    Column("low", "Low", "Of the difference's 95 % interval.", "number", is_usual=False),
    Column("high", "High", "Of the difference's 95 % interval.", "number", is_usual=False),
    Column("arm_id", "Arm id", is_usual=False),
)
OF_RUNS: Final = (
    Column("page", "Run", "Everything about it.", "link", shown=r"run=([0-9a-f]+)$"),
    Column("backbone", "Backbone"),
    Column("registers", "Registers"),
    Column("seed", "Seed", "", "number", "%d"),
    Column("status", "Status"),
    Column("value", "Value", "", "number"),
    Column("half_width", "± 95 %", "Over the generated images alone: 1.96 standard errors.", "number", "%.2g"),
    Column("difference", "Δ none", "To the matched run without registers.", "number"),
    Column("badge", "Badge", BADGES),
    Column("third_party", "Third party", THIRD_PARTY),
    *COSTS,
    Column("commit", "Commit", "Of the code that made it."),
    Column("path", "Record", "Its file below results/."),
    Column("created", "Created", "UTC", "time"),
    Column("stages", "Stages", "What the run really has.", is_usual=False),
    Column("count", "Count", "Registers in the denoiser.", "number", "%d", is_usual=False),
    Column("start_block", "Start", "The block before which they enter.", "number", "%d", is_usual=False),
    Column("steps", "Steps", "Of training.", "number", "%d", is_usual=False),
    Column("device", "Device", is_usual=False),
    Column("dirty", "Dirty", "Whether the checkout had changes that no commit has.", "flag", is_usual=False),
    Column("run_id", "Run id", is_usual=False),
)
# What stands in the place of these columns where the repository has an address.
LINKED: Final = {
    "commit": Column("commit_page", "Commit", "Of the code that made it.", "link", shown=r"commit/(.{1,7})"),
    "path": Column("record_page", "Record", "Its file below results/.", "link", shown=r"results/(.+)$"),
}
OF_FIGURES: Final = (
    Column("badge", "Badge"),
    Column("publication", "Publication"),
    Column("paper", "Source", "", "link", shown=r"https?://(?:arxiv\.org/abs/)?(.{1,40})"),
    Column("model", "Model"),
    Column("registers", "Arm"),
    Column("value", "Value", "", "number"),
    Column("unit", "Unit"),
    Column("epochs", "Epochs", "", "number"),
    Column("guidance", "Guidance"),
    Column("reference", "Against"),
    Column("confirmed", "Confirmed", "Read as a printed number in a source of its authors.", "flag"),
    Column("places", "Where", "Tables and figures of the source."),
    Column("read", "Read in", is_usual=False),
    Column("note", "Note", is_usual=False),
)


def show(view: View) -> None:
    """Draw the page."""
    st.title("DSR-Bench")
    st.markdown(QUESTION)
    choice = choose(view)
    if choice is not None:
        _show_board(view, choice)
    _show_evaluations(cached(queries.evaluations, view))
    _show_published(cached(queries.published, view), choice.metric if choice else "")
    _show_aside("malformed files were left out", cached(queries.problems, view))
    _show_aside("records were withdrawn", cached(queries.withdrawn, view))


def _show_board(view: View, choice: Choice) -> None:
    """Everything about runs that may be compared."""
    runs = cached(queries.runs, view, choice.board)
    arms = cached(judged_arms, view, choice.board, choice.metric, choice.better)
    shown = filtered(runs, arms)
    direction = "" if choice.better == "neither" else f"; {choice.better} is better"
    st.caption(f"{plain(choice.title)}: {plain(choice.unit)}{direction}. {plain(choice.board.protocol)}")
    if shown.runs.empty:
        st.info("No run passes these filters.")
        return
    distinct = treatments(shown.arms)
    beside = _show_answer(distinct, choice)
    _show_arms(shown.arms)
    if beside is not None:
        with beside:
            _show_differences(distinct[distinct["half_width"].notna()])
    _show_runs(shown.runs)
    _show_not_compared(view, choice.board.key)


def _show_answer(distinct: pd.DataFrame, choice: Choice) -> DeltaGenerator | None:
    """What a reader came for, before any table; returns where the chart of it belongs, None for nowhere."""
    if choice.metric in OF_THE_MACHINE:
        st.info("No verdict: time and memory are those of whatever machine a run was on, and are not compared.")
        return None
    is_counted = choice.metric in COUNTED
    st.subheader("What do they cost?" if is_counted else "Do registers help here?")
    if not is_counted:
        st.markdown(summary(distinct))
    left, right = st.columns([2, 3], gap="medium")
    with left:
        said = costs(distinct) if is_counted else findings(distinct)
        st.markdown("\n".join(f"- **{plain(each.backbone)}**. {each.sentence}" for each in said))
        st.caption("Counted, not measured: the same in every training." if is_counted else _how_sure(distinct))
    return right


def _how_sure(distinct: pd.DataFrame) -> str:
    tested = int((distinct["half_width"].notna() & (distinct["verdict"] != "changed nothing")).sum())
    return (
        "Differences to the matched runs without registers, ± 95 %, and in % of those. An interval misses the truth "
        f"once in twenty: of the {tested} here, expect {tested / 20:.1f} to lie beside zero by chance. No interval: "
        "no matched run, or too few seeds."
    )


def _show_differences(known: pd.DataFrame) -> None:
    """The chart, which comes after the tables: nobody waits for them until Altair is imported."""
    if known.empty:
        st.info("No difference has an interval yet: that takes a run with registers beside its matched one without.")
        return
    shown = known.head(IN_THE_CHART)
    names = pd.Series(
        [f"{short(str(row.label), 60)} · {short(str(row.backbone), 40)}" for row in shown.itertuples()], shown.index
    )
    names = names.where(~names.duplicated(keep=False), names + " [" + shown["arm_id"].str[:6] + "]")
    from leaderboard import charts
    from leaderboard.drawing import draw

    draw(charts.differences, shown.assign(name=names)[charts.READ], "difference to none")
    if len(known) > IN_THE_CHART:
        st.caption(f"The first {IN_THE_CHART} of {len(known)}: filter by backbone for the others.")


def _show_arms(arms: pd.DataFrame) -> None:
    st.subheader("Arms: mean over seeds, difference to none")
    rows = arms.assign(is_grey=~arms["verdict"].isin(SHOWN), percent=100 * arms["share"])
    listing(rows, OF_ARMS, "arms", greyed=("difference", "half_width", "percent", "verdict"))
    st.caption(
        "A difference is taken seed by seed to the run without registers that is equal in everything else; ± 95 % is "
        "Student's t over those pairs. One seed of a Fréchet distance gets what repeated arms of this board vary by, "
        f"and not less than {PUBLISHED_VARIATION:.1%} of each value (arXiv 2606.20536), and is a hint at most. Grey: "
        "zero is inside, one seed, or nothing is known. All seeds count here, whatever the filters leave of them below."
    )


def _show_runs(runs: pd.DataFrame) -> None:
    st.subheader("Runs")
    rows = runs.assign(page=links.RUN + runs["run_id"], half_width=OF_IMAGES * runs["standard_error"])
    if not links.REPOSITORY:
        listing(rows, OF_RUNS, "runs")
        return
    commits = rows["commit"].map(links.commit, na_action="ignore")
    rows = rows.assign(commit_page=commits, record_page=rows["path"].map(links.record))
    listing(rows, [LINKED.get(column.name, column) for column in OF_RUNS], "runs")


def _show_not_compared(view: View, key: str) -> None:
    """The values of this metric that stand on other boards, and what forbids to put them on this one."""
    others = cached(queries.others, view, key) if key else pd.DataFrame()
    if others.empty:
        return
    mine = Key.model_validate_json(cached(queries.fields_of, view, key))
    reasons = [mine.differences(Key.model_validate_json(fields)) for fields in others["fields"]]
    others["not comparable, because"] = ["; ".join(reason) for reason in reasons]
    with st.expander(f"Not compared with these: {others['records'].sum()} values of the same metric elsewhere"):
        st.dataframe(others[["title", "task", "records", "not comparable, because"]], hide_index=True)


def _show_evaluations(evaluations: pd.DataFrame) -> None:
    if evaluations.empty:
        return
    st.subheader("Images from elsewhere")
    rounded = {name: st.column_config.NumberColumn(format="%.4g") for name in ("value", "standard_error")}
    st.dataframe(shortened(evaluations), hide_index=True, column_config=rounded)
    st.caption("Scored here by `python -m harness eval`; conditions as declared. Never ranked with runs.")


def _show_published(figures: pd.DataFrame, metric: str) -> None:
    """What others printed of the same metric: apart from what was measured, whatever it says."""
    if figures.empty:
        return
    st.subheader("Published: quoted, never ranked with what was measured here")
    same = figures[figures["metric"] == metric]
    if same.empty:
        most = ", ".join(f"{name} ({count})" for name, count in figures["metric"].value_counts().head(4).items())
        st.caption(f"Nobody published this metric. Quoted are {len(figures)} figures of others: {most} and more.")
        with st.expander(f"All {len(figures)} quoted figures"):
            st.dataframe(shortened(figures), hide_index=True)
        return
    addresses = [links.paper(arxiv, url) for arxiv, url in zip(same["arxiv"], same["url"], strict=True)]
    listing(same.assign(badge="quoted", paper=addresses), OF_FIGURES, "quoted")


def _show_aside(what: str, files: pd.DataFrame) -> None:
    """Files that count for nothing, each with the reason."""
    if not files.empty:
        with st.expander(f"{len(files)} {what}"):
            st.dataframe(shortened(files), hide_index=True)
