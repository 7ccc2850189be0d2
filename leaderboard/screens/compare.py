"""The page "Compare": arms of one board side by side, and how sure we are of what sets them apart."""

import shlex
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from harness.intervals import COUNTED
from harness.spec import RunConfig
from harness.text_table import counted
from leaderboard import charts, compare_charts, compare_queries
from leaderboard.answers import cached
from leaderboard.bound import select
from leaderboard.choice import Choice, choose
from leaderboard.differences import judged_arms
from leaderboard.drawing import draw
from leaderboard.grids import show_grid
from leaderboard.picking import pick
from leaderboard.text import plain, short
from leaderboard.view import View

ABSENT = "–"
COUNTS = (1, 4, 16)
GRIDS_IN_A_ROW = 4
CHARTS_IN_A_ROW = 2


def show(view: View) -> None:
    """Draw the page."""
    st.title("Compare")
    choice = choose(view)
    if choice is None:
        return
    judged = cached(judged_arms, view, choice.board, choice.metric, choice.better)
    runs = cached(compare_queries.named_runs, view, choice.board, choice.metric, choice.better)
    arms = compare_queries.arms(runs)
    if arms.empty:
        st.info("No run of this board has a value of this metric: choose another one in the sidebar.")
        return
    st.caption(f"{plain(choice.title)}: {plain(choice.unit)}{compare_charts.arrow(choice.better)}")
    picked = pick(arms)
    if not picked:
        st.info("Pick at least one arm.")
        return
    chosen, of_chosen = arms[arms["arm"].isin(picked)], runs[runs["arm"].isin(picked)]
    _show_differences(runs, arms, picked, choice)
    _show_over_backbones(judged, runs, chosen, choice)
    if choice.metric not in COUNTED:
        _show_cost(arms, chosen, choice)
    _show_curves(view, of_chosen, chosen)
    _show_effects(view, judged, runs, chosen, choice)
    _show_samples(view, of_chosen)


def _show_differences(runs: pd.DataFrame, arms: pd.DataFrame, picked: Sequence[str], choice: Choice) -> None:
    st.subheader("Differences, seed by seed")
    table = compare_queries.pairwise(runs, arms, picked, choice.metric, choice.better)
    if table.empty:
        st.info("Two arms that are measured make a difference: pick another one.")
        return
    rows = {str(arm.arm): arm for arm in arms[arms["arm"].isin(picked)].itertuples()}
    table = table.assign(name=[_minus(rows[str(each.second)], rows[str(each.first)]) for each in table.itertuples()])
    paired = table[table["pairs"] > 0]
    if not paired.empty:
        draw(charts.differences, paired, f"difference in {short(choice.metric)}")
    _show_table(table)
    st.caption(
        "The arm named first less the one named after the minus, over the seeds that both have: what it does there, "
        "against the other. ± 95 % is Student's t over those differences; one seed of a Fréchet distance gets what "
        "repeated arms of this board vary by, and is a hint at most. Arms of two backbones share their seeds, and "
        "little else: such a difference is larger or smaller, and says nothing of registers."
    )


def _minus(second: Any, first: Any) -> str:
    """Two arms with a minus between; the backbone stands once where it is the same."""
    return f"{second.arm} − {short(first.label) if first.backbone == second.backbone else first.arm}"


def _show_over_backbones(judged: pd.DataFrame, runs: pd.DataFrame, chosen: pd.DataFrame, choice: Choice) -> None:
    """One preset against none on every backbone of the board, whichever were picked."""
    presets = [preset for preset in dict.fromkeys(chosen["registers"]) if preset != "none"]
    if not presets:
        return
    st.subheader("One preset over all backbones")
    preset = select("Preset", presets, "preset", short)
    names = dict(zip(runs["arm_id"], runs["arm"], strict=True))
    table = compare_queries.over_backbones(judged, names, preset)
    if table.empty:
        st.info("No run with this preset has a matched run without registers that was measured alike.")
        return
    draw(charts.differences, table, f"{short(preset)} − none, {short(choice.metric)}")
    _show_table(table)
    st.caption(in_short(table))


def in_short(table: pd.DataFrame) -> str:
    """Of how many differences what is shown."""
    counts = table["verdict"].value_counts()
    said = "; ".join(f"{verdict} on {counts[verdict]}" for verdict in charts.VERDICTS if verdict in counts)
    return f"Against none, of {counted(len(table), 'arm')} with this preset: {said}."


def _show_table(table: pd.DataFrame) -> None:
    """Differences in numbers and in words."""
    shown = pd.DataFrame({"difference of": table["name"], "shows": list(map(_words, table["pairs"], table["verdict"]))})
    shown["difference"], shown["± 95 %"] = table["difference"].to_numpy(), table["half_width"].to_numpy()
    if "share" in table:
        shown["share of none"] = 100 * table["share"].to_numpy()
    shown["seeds"] = table["pairs"].to_numpy()
    st.dataframe(shown, hide_index=True, placeholder=ABSENT, column_config=_rounded())


def _words(pairs: int, verdict: str) -> str:
    if not pairs:
        return "no seed in common"
    return "one seed: how sure is not known" if verdict == "not known" else verdict


def _show_cost(arms: pd.DataFrame, chosen: pd.DataFrame, choice: Choice) -> None:
    """For each backbone its arms and its front: what a pass costs says nothing of another backbone's latents."""
    st.subheader("Quality against cost")
    is_all = st.toggle("All arms of the board", key="all", bind="query-params")
    shown = (arms if is_all else chosen).dropna(subset=["gflops"])
    if shown.empty:
        st.info("None of these arms has counted GFLOPs.")
        return
    of_backbones = [arms_of for _, arms_of in shown.groupby("backbone", sort=False)]
    for start in range(0, len(of_backbones), CHARTS_IN_A_ROW):
        row = of_backbones[start : start + CHARTS_IN_A_ROW]
        for column, arms_of in zip(st.columns(max(len(row), min(len(of_backbones), 2))), row, strict=False):
            with column:
                _show_front(arms_of, choice)
    st.caption(
        "Dashed: the Pareto front, by means over seeds. Bars are one standard deviation over seeds, so that arms whose "
        "bars overlap may change places. GFLOPs are those of one forward pass of the denoiser; encoder and decoder "
        "are not in them, and training for longer is not either: arms that were are hollow, and not on the front."
    )


def _show_front(arms: pd.DataFrame, choice: Choice) -> None:
    """The arms of one backbone, in a picture and in words."""
    of_one_length = arms[~arms["has_other_length"]]
    front = compare_queries.front(of_one_length, choice.better)
    st.markdown(f"**{plain(str(arms['backbone'].iloc[0]))}**")
    draw(compare_charts.quality_against_gflops, arms, front, short(choice.metric), choice.better)
    if not front:
        st.caption("Of this metric neither direction is better: there is no front.")
        return
    named = "; ".join(
        f"{plain(str(arm.label))} ({arm.gflops:.3g} GFLOPs, {arm.mean:.4g}{', one seed' if arm.measured == 1 else ''})"
        for arm in of_one_length.set_index("arm").loc[front].itertuples()
    )
    st.markdown(
        f"**On the Pareto front** (no other of {counted(len(of_one_length), 'arm')} here is as cheap and better, or as "
        f"good and cheaper): {named}."
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
            draw(compare_charts.learning_curves, of_backbone, arms)
    st.caption(
        "Mean over seeds; the band is from the least to the most of any seed. Losses of two backbones differ in kind."
    )


def _show_effects(view: View, judged: pd.DataFrame, runs: pd.DataFrame, chosen: pd.DataFrame, choice: Choice) -> None:
    """A map of one preset's arms that differ in count and start block alone."""
    with_tokens = runs[runs["count"].notna() & runs["backbone"].isin(chosen["backbone"])]
    settings = compare_queries.settings(with_tokens)
    if not settings:
        return
    st.subheader("How many registers, and from which block")
    left, right = st.columns(2)
    setting = select("Backbone", list(settings), "backbone", lambda each: short(settings[each]), left)
    of_setting = with_tokens[with_tokens["setting"] == setting]
    presets = _with_most_cells(of_setting, chosen)
    preset = select("Registers", presets, "tokens", short, right)
    cells = compare_queries.effects(judged, runs, setting, preset)
    if cells.empty:
        st.info("No pair of runs, with and without these registers, was measured alike.")
    else:
        draw(compare_charts.effect_map, cells, f"difference to none{compare_charts.arrow(choice.better)}")
        st.caption(
            "Each cell is one arm: its mean difference to none, ± 95 %, and how many pairs of runs it rests on. Pale: "
            "zero is inside, or nothing is sure of one seed. The colours reach as far as any interval."
        )
    if len(cells) <= 1:
        run = of_setting[of_setting["registers"] == preset].iloc[0]
        config = RunConfig.model_validate_json(cached(compare_queries.config_of, view, str(run["record_id"])))
        st.markdown("There is one cell only." if len(cells) else "There is no cell yet.")
        st.markdown("This sweep fills the map; runs that have a record are not repeated:")
        st.code(sweep_command(config), language="bash", wrap_lines=True)


def _with_most_cells(with_tokens: pd.DataFrame, chosen: pd.DataFrame) -> list[str]:
    """The presets of these runs: those with most cells of the map first, and among equals those that were picked."""
    cells = with_tokens.groupby("registers")["arm_id"].nunique()
    picked = set(chosen["registers"])
    return sorted(cells.index, key=lambda preset: (-cells[preset], preset not in picked, preset))


def sweep_command(config: RunConfig) -> str:
    """What to run for a map of count and start block of a run's backbone and preset: first, quarter and middle block.

    The file of a backbone from elsewhere is named in capitals where it lies: nobody knows that here.
    """
    depth = int(config.network["depth"])
    starts = sorted({0, depth // 4, depth // 2})
    name = f"PATH/{config.third_party.file}:{config.exact_name}" if config.third_party else config.exact_name
    words = ["python", "-m", "harness", "sweep", "--task", config.task.name, "--backbone", name]
    words += ["--registers", config.registers.preset, "--seeds", "0-2"]
    words += ["--set", "latents.kind=stand-in"] if config.latents.kind == "stand-in" else []
    words += ["--set", f"registers.denoiser.count={','.join(map(str, COUNTS))}"]
    words += ["--set", f"registers.denoiser.start_block={','.join(map(str, starts))}"]
    return shlex.join(words)


def _show_samples(view: View, runs: pd.DataFrame) -> None:
    st.subheader("Samples from the same noise")
    seeds = [str(seed) for seed in sorted(runs["seed"].unique())]
    seed = select("Seed", seeds, "seed")
    newest = runs[runs["seed"].astype(str) == seed]
    for start in range(0, len(newest), GRIDS_IN_A_ROW):
        row = newest.iloc[start : start + GRIDS_IN_A_ROW]
        for column, (_, run) in zip(st.columns(GRIDS_IN_A_ROW), row.iterrows(), strict=False):
            with column:
                show_grid(view, run)
    missing = len(set(runs["arm"])) - len(newest)
    others = f" {missing} picked arms have no run of this seed." if missing else ""
    several = " Two backbones start from the same noise only where their latents have the same shape."
    st.caption(
        "The noise and the class of image i follow from the seed and i alone, so that pictures of one seed show the "
        f"same draws; none is picked.{several if newest['backbone'].nunique() > 1 else ''}{others}"
    )


def _rounded() -> dict[str, Any]:
    return {
        "difference": st.column_config.NumberColumn(format="%.4g"),
        "± 95 %": st.column_config.NumberColumn(format="%.3g"),
        "seeds": st.column_config.NumberColumn(format="%d"),
        "share of none": st.column_config.NumberColumn(format="%.1f %%"),
    }
