"""The page "Text to image": whether images show what their prompts ask for, with registers and without."""

from collections.abc import Sequence
from typing import Final

import pandas as pd
import streamlit as st

from harness.errors import UserError
from harness.metrics.geneval.prompt import TAGS
from leaderboard import compare_queries, geneval_charts, geneval_queries, geneval_verdicts, links
from leaderboard.answers import cached
from leaderboard.bound import keep_offered, select
from leaderboard.choice import Choice, Offered, choose
from leaderboard.drawing import draw
from leaderboard.geneval_queries import IMAGES, OVERALL, PROMPTS, SHAPES, TITLES
from leaderboard.geneval_quoted import CURVES, SCORES, Quoted, quoted
from leaderboard.geneval_scores import CHANCE, EMBEDDED, HOW_SURE, OF_QUOTED, WHAT, by_chance
from leaderboard.grids import show_grid
from leaderboard.listing import Column, listing
from leaderboard.picking import pick
from leaderboard.text import plain, short
from leaderboard.view import View

OFFERED: Final = Offered(
    geneval_queries.boards,
    geneval_queries.metrics,
    "Nothing was scored by GenEval's rules yet. Start with "
    "`python -m harness run --task shapes-t2i --backbone sit --registers dsr`.",
)
ONE_DECIMAL: Final = "%.1f"
LONG: Final = 1000
SAME_DRAWS: Final = "Pictures of one seed start from the same noise and ask for the same; none is picked."


def _of_category(category: str) -> tuple[Column, ...]:
    """The columns of one category: only the score and its change are shown at first."""
    name = TITLES[category].lower()
    return (
        Column(f"{category} mean", f"{TITLES[category]} %", "Share of its images that are right.", "number", "%.1f"),
        Column(f"{category} difference", f"Δ {name}", "To the matched runs without.", "number", "%+.1f"),
        Column(f"{category} half_width", f"± {name}", "Of the mean.", "number", ONE_DECIMAL, is_usual=False),
        Column(
            f"{category} difference_half_width", f"± Δ {name}", "Of the change.", "number", ONE_DECIMAL, is_usual=False
        ),
        Column(f"{category} chance", f"Chance {name}", CHANCE, "number", ONE_DECIMAL, is_usual=False),
    )


OF_ARMS: Final = (
    Column("backbone", "Backbone"),
    Column("label", "Registers"),
    Column("text", "Text", "How the prompt reaches the denoiser, and by which encoder."),
    Column(f"{OVERALL} mean", "Mean of six %", "Over the categories, each with the same weight.", "number", "%.1f"),
    Column(f"{OVERALL} half_width", "± 95 %", "Of the mean: see “interval from”.", "number", ONE_DECIMAL),
    Column(f"{OVERALL} interval", "Interval from", "seeds: Student's t. prompts: bootstrap over prompts of one seed."),
    Column(
        f"{OVERALL} difference", "Δ none", "Seed by seed, to the matched runs without registers.", "number", "%+.1f"
    ),
    Column(f"{OVERALL} difference_half_width", "± Δ", "Student's t over pairs of seeds.", "number", ONE_DECIMAL),
    Column(f"{OVERALL} verdict", "Shows", "Helps or harms where zero lies outside that interval."),
    Column(f"{OVERALL} measured", "Seeds", "Runs that have a score.", "number", "%d"),
    *(column for tag in TAGS for column in _of_category(tag)),
    Column(f"{IMAGES} mean", "Image accuracy %", "Over all images alike: not GenEval's mean.", "number", ONE_DECIMAL),
    Column(f"{PROMPTS} mean", "Prompt accuracy %", "Prompts with any right image.", "number", "%.1f", is_usual=False),
    Column(f"{OVERALL} chance", "Chance", CHANCE, "number", ONE_DECIMAL, is_usual=False),
    Column("diverged", "Diverged", "Runs whose training diverged.", "number", "%d", is_usual=False),
)
OF_PROMPTS: Final = (
    Column("category", "Category"),
    Column("prompt", "Prompt"),
    Column("correct", "Right", "Of its images.", "number", "%d"),
    Column("images", "Images", "", "number", "%d"),
    Column("reasons", "Why not", "The rules' own words, with the number of images."),
)
OF_MODELS: Final = (
    Column("model", "Model"),
    Column("arm", "Arm"),
    *(Column(title, f"{title} %", "As published.", "number", ONE_DECIMAL) for title in SCORES.values()),
    Column("paper", "Source", "", "link", shown=r"https?://(?:arxiv\.org/abs/)?(.{1,40})"),
    Column("publication", "Publication"),
)


def show(view: View) -> None:
    """Draw the page."""
    st.title("Text to image")
    st.markdown(WHAT)
    choice = choose(view, OFFERED)
    if choice is not None:
        _show_measured(view, choice)
    _show_elsewhere(cached(geneval_queries.elsewhere, view))
    _show_quoted(cached(quoted, view))


def _show_measured(view: View, choice: Choice) -> None:
    embedded = f" {EMBEDDED}" if choice.metric == SHAPES else ""
    st.caption(f"{plain(choice.title)}. {plain(choice.board.protocol)}.{embedded}")
    runs = cached(compare_queries.named_runs, view, choice.board, choice.metric, choice.better)
    arms = compare_queries.arms(runs)
    if arms.empty:
        st.info("No newest record of a run has a value here.")
        return
    table = cached(geneval_queries.scores, view, choice.board, choice.metric)
    st.subheader("Arms: right images, in percent")
    listing(geneval_queries.wide(table), OF_ARMS, "scores")
    st.caption(by_chance(table))
    picked = pick(arms)
    chosen = arms[arms["arm"].isin(picked)]
    if chosen.empty:
        st.info("Pick at least one arm.")
        return
    _show_categories(table, chosen)
    _show_grids(view, runs, chosen)
    _show_prompts(view, choice, runs[runs["arm"].isin(picked)])


def _show_categories(table: pd.DataFrame, chosen: pd.DataFrame) -> None:
    """A chart for each backbone."""
    st.subheader("By category")
    names = chosen.set_index("arm_id")["arm"]
    known = table.assign(arm=table["arm_id"].map(names), title=table["category"].map(TITLES))
    known = known[known["category"].isin([OVERALL, *TAGS])].dropna(subset=["arm", "mean"])
    for backbone, mine in known.groupby("backbone", sort=False):
        st.markdown(f"**{plain(str(backbone))}**")
        draw(geneval_charts.by_category, mine[geneval_charts.READ])
    st.caption(HOW_SURE)


def _show_grids(view: View, runs: pd.DataFrame, chosen: pd.DataFrame) -> None:
    """The samples of two arms beside each other."""
    st.subheader("Samples of two arms")
    mine = runs[runs["arm"].isin(chosen["arm"])]
    seeds = [str(seed) for seed in sorted(mine["seed"].unique())]
    seed = select("Seed", seeds, "seed")
    arms = list(chosen["arm"])
    for place, (column, name) in enumerate(zip(st.columns(2), ("Left", "Right"), strict=True)):
        with column:
            arm = select(name, arms[place:] + arms[:place], name.lower(), short)
            of_seed = mine[(mine["arm"] == arm) & (mine["seed"].astype(str) == seed)]
            if of_seed.empty:
                st.info("This arm has no run of this seed.")
            else:
                show_grid(view, of_seed.iloc[0])
    st.caption(SAME_DRAWS)


def _show_prompts(view: View, choice: Choice, runs: pd.DataFrame) -> None:
    """What was decided of every prompt of one run."""
    st.subheader("Prompt by prompt")
    found = runs[["run_id", "arm", "seed"]].merge(cached(geneval_queries.judged_runs, view, choice.board), on="run_id")
    titles = {
        str(row.run_id): f"{short(str(row.arm), 80)}, seed {row.seed} ({row.run_id})" for row in found.itertuples()
    }
    if not titles:
        return
    left, right = st.columns(2)
    run_id = select("Run", list(titles), "judged", titles.__getitem__, left)
    path = dict(zip(found["run_id"], found["path"], strict=True))[run_id]
    try:
        prompts = _prompts(view.digest, view, path)
    except UserError as error:
        st.warning(plain(f"{error.problem}; {error.remedy}.", LONG))
        return
    if prompts is None:
        st.info("This run came without the verdicts on its images.")
        return
    tags = list(dict.fromkeys(prompts["category"]))
    keep_offered("category", tags)
    wanted = right.multiselect("Category", tags, format_func=short, key="category", bind="query-params")
    only_wrong = right.toggle("Only prompts with a wrong image", key="wrong", bind="query-params")
    shown = _narrowed(prompts, wanted, only_wrong=only_wrong)
    right_images, images = int(shown["correct"].sum()), int(shown["images"].sum())
    st.caption(
        f"{len(shown):,} prompts: {right_images:,} of {images:,} images are right. [The run]({links.run(run_id)})"
    )
    if not shown.empty:
        listing(shown, OF_PROMPTS, "prompts")


def _narrowed(prompts: pd.DataFrame, wanted: Sequence[str], *, only_wrong: bool) -> pd.DataFrame:
    if wanted:
        prompts = prompts[prompts["category"].isin(wanted)]
    return prompts[prompts["correct"] < prompts["images"]] if only_wrong else prompts


@st.cache_data(max_entries=16, show_spinner=False)
def _prompts(digest: str, _view: View, path: str) -> pd.DataFrame | None:  # noqa: ARG001 - a part of the cache's key
    return geneval_verdicts.of_prompts(_view.results, path)


def _show_elsewhere(found: pd.DataFrame) -> None:
    if found.empty:
        return
    st.subheader("Images from elsewhere, in percent")
    scores = [title for title in TITLES.values() if title in found]
    columns = [
        Column("title", "Images"),
        *(Column(title, f"{title} %", "", "number", ONE_DECIMAL) for title in scores),
        Column("num_images", "Number", "", "number", "%d"),
        Column("extractor", "Judged by"),
        Column("declared", "Declared"),
        Column("path", "Record", "Its file below results/."),
    ]
    listing(found, [column for column in columns if column.name in found], "elsewhere")
    st.caption("Scored here by `python -m harness eval geneval`; conditions as declared. Never ranked with runs.")


def _show_quoted(found: Quoted) -> None:
    """What others printed: apart from what was measured, whatever it says."""
    if found.models.empty and found.curves.empty:
        return
    st.subheader("As quoted, not measured here")
    for remark in found.remarks:
        st.markdown(plain(remark, LONG))
    offered = [metric for metric in CURVES if metric in set(found.curves["metric"])]
    if offered:
        metric = select("Curve of", offered, "curve", CURVES.__getitem__)
        curve = found.curves[found.curves["metric"] == metric].drop(columns="metric")
        draw(geneval_charts.quoted_curves, curve, CURVES[metric])
    if not found.models.empty:
        models = found.models
        papers = [links.paper(arxiv, url) for arxiv, url in zip(models["arxiv"], models["url"], strict=True)]
        listing(models.assign(paper=papers), OF_MODELS, "models")
        st.caption(OF_QUOTED)
