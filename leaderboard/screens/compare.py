"""The page "Compare": arms of one board side by side, and how sure we are of what sets them apart."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from harness.intervals import COUNTED
from harness.text_table import counted
from leaderboard import compare_charts, compare_queries, links, pictures
from leaderboard.answers import cached
from leaderboard.choice import Choice, choose
from leaderboard.differences import judged_arms
from leaderboard.text import plain, short
from leaderboard.view import View

MOST_ARMS = 8
FIRST_ARMS = 4
STAND_IN = " on stand-in latents"
COUNTS = (1, 4, 16)
GRIDS_IN_A_ROW = 4


def show(view: View) -> None:
    """Draw the page."""
    st.title("Compare")
    choice = choose(view)
    if choice is None:
        return
    runs = cached(compare_queries.runs, view, choice.board)
    arms = compare_queries.arms(runs)
    if arms.empty:
        st.info("No run of this board has a value of this metric: choose another one in the sidebar.")
        return
    st.caption(f"{plain(choice.title)}: {plain(choice.unit)}{compare_charts.arrow(choice.better)}")
    picked = _pick(arms)
    if not picked:
        st.info("Pick at least one arm.")
        return
    chosen = arms[arms["arm"].isin(picked)]
    _show_differences(runs, picked, choice)
    _show_over_backbones(view, chosen, choice)
    _show_cost(arms, chosen, choice)
    _show_curves(view, runs[runs["arm"].isin(picked)], chosen)
    _show_effects(view, runs, chosen, choice)
    _show_samples(view, runs[runs["arm"].isin(picked)])


def _pick(arms: pd.DataFrame) -> list[str]:
    """The arms in the address; at first some with tokens beside none, of the backbone that has most arms."""
    of_first = arms[arms["backbone"] == arms["backbone"].mode().iloc[0]]
    order = pd.DataFrame(
        {
            "arm": of_first["arm"],
            "is_treated": of_first["registers"] != "none",
            "has_no_tokens": of_first["count"].isna(),
            "rare": -of_first["measured"],
        }
    ).sort_values(["is_treated", "has_no_tokens", "rare", "arm"])
    return st.multiselect(
        "Arms",
        list(arms["arm"]),
        default=list(order["arm"][:FIRST_ARMS]),
        key="arm",
        bind="query-params",
        max_selections=MOST_ARMS,
        help="A backbone with a register configuration, over all its seeds. The address keeps what is picked.",
    )


def _show_differences(runs: pd.DataFrame, picked: Sequence[str], choice: Choice) -> None:
    st.subheader("Differences, seed by seed")
    table = compare_queries.pairwise(runs, picked, choice.metric, choice.better)
    if table.empty:
        st.info("Two arms that are measured make a difference: pick another one.")
        return
    table = table.assign(name=[_minus(str(row.second), str(row.first)) for row in table.itertuples()])
    paired = table[table["pairs"] > 0]
    if not paired.empty:
        st.altair_chart(compare_charts.differences(paired, f"difference in {short(choice.metric)}"))
    _show_table(table, choice)
    st.caption(
        "The arm named first less the one named after the minus, over the seeds that both have. ± 95 % is Student's t "
        "over those differences; one seed of a Fréchet distance gets what repeated arms of this board vary by. "
        "Arms of two backbones share their seeds, and little else: such a difference is between backbones."
    )


def _minus(second: str, first: str) -> str:
    """Two arms with a minus between; the backbone stands once where it is the same."""
    backbone = first.partition(" ")[0]
    return f"{second} − {first.removeprefix(f'{backbone} ') if second.startswith(f'{backbone} ') else first}"


def _show_over_backbones(view: View, chosen: pd.DataFrame, choice: Choice) -> None:
    """One preset against none on every backbone of the board, whichever were picked."""
    presets = [preset for preset in dict.fromkeys(chosen["registers"]) if preset != "none"]
    if not presets:
        return
    st.subheader("One preset over all backbones")
    preset = st.selectbox("Preset", presets, format_func=short, key="preset", bind="query-params")
    judged = cached(judged_arms, view, choice.board, choice.metric, choice.better)
    table = compare_queries.over_backbones(judged, preset)
    if table.empty:
        st.info("No run with this preset has a matched run without registers that was measured alike.")
        return
    st.altair_chart(compare_charts.differences(table, f"{short(preset)} − none"))
    _show_table(table, choice)
    st.caption(in_short(table))


def in_short(table: pd.DataFrame) -> str:
    """Of how many differences what is shown."""
    counts = table["verdict"].value_counts()
    shown = [
        f"{verdict} on {counts[verdict]}" for verdict in ("better", "worse", "larger", "smaller") if verdict in counts
    ]
    rest = len(table) - sum(counts.get(verdict, 0) for verdict in ("better", "worse", "larger", "smaller"))
    shown += [f"nothing is shown on {rest}"] if rest else []
    return f"Against none, of {counted(len(table), 'arm')} with this preset: {'; '.join(shown)}."


def _show_table(table: pd.DataFrame, choice: Choice) -> None:
    """Differences in numbers and in words."""
    shown = pd.DataFrame({"difference of": table["name"], "seeds": table["pairs"], "difference": table["difference"]})
    shown["± 95 %"] = table["half_width"]
    if "share" in table:
        shown["share of none"] = 100 * table["share"]
    shown["in words"] = [_words(row, choice) for _, row in table.iterrows()]
    st.dataframe(shown, hide_index=True, column_config=_rounded())


def _words(row: pd.Series, choice: Choice) -> str:
    if not row["pairs"]:
        return "no seed in common"
    if row["verdict"] == "not known":
        return "one seed: how sure is not known"
    if row["difference"] == 0 and row["half_width"] == 0 and choice.metric not in COUNTED:
        return "equal to the last digit: the two did the same"
    said = "may be equal" if row["verdict"] == "nothing shown" else row["verdict"]
    return f"{said} (one seed, by what others vary)" if row["method"] == "prior" else str(said)


def _show_cost(arms: pd.DataFrame, chosen: pd.DataFrame, choice: Choice) -> None:
    st.subheader("Quality against cost")
    is_all = st.toggle("All arms of the board", key="all", bind="query-params")
    shown = (arms if is_all else chosen).dropna(subset=["gflops"])
    if shown.empty:
        st.info("None of these arms has counted GFLOPs.")
        return
    front = compare_queries.front(shown, choice.better)
    st.altair_chart(compare_charts.quality_against_gflops(shown, front, short(choice.metric), choice.better))
    if not front:
        st.caption("Of this metric neither direction is better: there is no front.")
        return
    means = shown.set_index("arm")
    named = "; ".join(
        f"{plain(arm)} ({means['gflops'][arm]:.3g} GFLOPs, {means['mean'][arm]:.4g}"
        f"{', one seed' if means['measured'][arm] == 1 else ''})"
        for arm in front
    )
    st.markdown(
        f"**On the Pareto front** (no other of the {len(shown)} arms shown is as cheap and better, or as good and "
        f"cheaper): {named}."
    )
    st.caption(
        "By means over seeds; bars are one standard deviation over seeds, so that arms whose bars overlap may change "
        "places. GFLOPs are those of one forward pass of the denoiser; encoder and decoder are not in them."
    )


def _show_curves(view: View, runs: pd.DataFrame, chosen: pd.DataFrame) -> None:
    st.subheader("Learning curves")
    curves = cached(compare_queries.curves, view, runs[["record_id", "arm"]])
    if curves.empty:
        st.info("These records hold no loss curves.")
        return
    for backbone, arms in chosen.groupby("backbone", sort=False):
        of_backbone = curves[curves["arm"].isin(arms["arm"])]
        if not of_backbone.empty:
            if chosen["backbone"].nunique() > 1:
                st.markdown(f"**{plain(str(backbone))}**")
            st.altair_chart(compare_charts.learning_curves(of_backbone, arms))
    st.caption(
        "Mean over seeds; the band is from the least to the most of any seed. Losses of two backbones differ in kind."
    )


def _show_effects(view: View, runs: pd.DataFrame, chosen: pd.DataFrame, choice: Choice) -> None:
    with_tokens = runs[runs["count"].notna() & runs["backbone"].isin(chosen["backbone"])]
    backbones = list(dict.fromkeys(with_tokens["backbone"]))
    if not backbones:
        return
    st.subheader("How many registers, and from which block")
    left, right = st.columns(2)
    backbone = left.selectbox("Backbone", backbones, format_func=short, key="backbone", bind="query-params")
    presets = _with_most_cells(with_tokens[with_tokens["backbone"] == backbone], chosen)
    preset = right.selectbox("Registers", presets, format_func=short, key="tokens", bind="query-params")
    cells = compare_queries.effects(runs, backbone, preset)
    if cells.empty:
        st.info("No pair of runs, with and without these registers, was measured alike.")
    else:
        title = f"difference to none{compare_charts.arrow(choice.better)}"
        st.altair_chart(compare_charts.effect_map(cells, title))
        st.caption("In each cell the mean difference to none, and in brackets the number of pairs that it rests on.")
    if len(cells) <= 1:
        depth = cached(compare_queries.depth, view, choice.board, backbone)
        st.markdown("There is one cell only." if len(cells) else "There is no cell yet.")
        st.markdown("This sweep fills the map; runs that have a record are not repeated:")
        st.code(sweep_command(backbone, preset, choice.board.task, depth), language="bash", wrap_lines=True)


def _with_most_cells(with_tokens: pd.DataFrame, chosen: pd.DataFrame) -> list[str]:
    """The presets of these runs: those with most cells of the map first, and among equals those that were picked."""
    cells = with_tokens.groupby("registers").apply(
        lambda found: found[["count", "start_block"]].drop_duplicates().shape[0]
    )
    picked = set(chosen["registers"])
    return sorted(cells.index, key=lambda preset: (-cells[preset], preset not in picked, preset))


def sweep_command(backbone: str, preset: str, task: str, depth: int | None) -> str:
    """What to run for a map of count and start block: first, quarter and middle block, where the depth is known."""
    starts = sorted({0, depth // 4, depth // 2}) if depth else [0]
    name = backbone.removesuffix(STAND_IN)
    latents = " --set latents.kind=stand-in" if backbone.endswith(STAND_IN) else ""
    return (
        f"python -m harness sweep --task {task} --backbone {name} --registers {preset} --seeds 0-2{latents}"
        f" --set registers.denoiser.count={','.join(map(str, COUNTS))}"
        f" --set registers.denoiser.start_block={','.join(map(str, starts))}"
    )


def _show_samples(view: View, runs: pd.DataFrame) -> None:
    st.subheader("Samples from the same noise")
    seeds = [str(seed) for seed in sorted(runs["seed"].unique())]
    seed = st.selectbox("Seed", seeds, key="seed", bind="query-params")
    newest = runs[runs["seed"].astype(str) == seed]
    for start in range(0, len(newest), GRIDS_IN_A_ROW):
        row = newest.iloc[start : start + GRIDS_IN_A_ROW]
        for column, (_, run) in zip(st.columns(GRIDS_IN_A_ROW), row.iterrows(), strict=False):
            with column:
                _show_grid(view, run)
    missing = len(set(runs["arm"])) - len(newest)
    others = f" {missing} picked arms have no run of this seed." if missing else ""
    several = " Two backbones start from the same noise only where their latents have the same shape."
    st.caption(
        "The noise and the class of image i follow from the seed and i alone, so that pictures of one seed show the "
        f"same draws; none is picked.{several if newest['backbone'].nunique() > 1 else ''}{others}"
    )


def _show_grid(view: View, run: pd.Series) -> None:
    """The picture of one run, or why there is none."""
    st.markdown(f"**{plain(str(run['arm']))}**")
    if pd.isna(run["samples"]):
        why = "This run diverged: no samples." if run["status"] == "diverged" else "This record came without a picture."
        st.info(why)
        return
    picture = pictures.opened(view.results / str(run["samples"]))
    if picture is None:
        st.warning(f"The picture {plain(str(run['samples']))} is missing, or is none.")
    else:
        st.image(picture, width="stretch")
    st.markdown(f"[run {run['run_id']}]({links.RUN}{run['run_id']})")


def _rounded() -> dict[str, Any]:
    return {
        "difference": st.column_config.NumberColumn(format="%.4g"),
        "± 95 %": st.column_config.NumberColumn(format="%.3g"),
        "share of none": st.column_config.NumberColumn(format="%.1f %%"),
    }
