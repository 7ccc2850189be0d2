"""The page "Outliers": where token norms stand out in one run, and in the same run without registers."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from harness.encoder_records import LEAST_TOKENS, OUTLIER
from harness.errors import UserError
from harness.outlier_records import OutlierStatistics
from leaderboard import compare_queries, links, norm_maps, outlier_charts, outlier_queries
from leaderboard.answers import cached
from leaderboard.choice import choose
from leaderboard.drawing import draw
from leaderboard.norm_maps import NormMaps
from leaderboard.text import plain
from leaderboard.view import View

# Heat maps: column, heading, and what its scale reaches at least, so that noise alone does not fill the colours.
MEASURES = (
    ("max_over_median", "Largest patch norm over the median", OUTLIER, 1.0),
    ("share_above_3x", "Share of the patches above 3 medians", 10 * LEAST_TOKENS, 0.0),
    ("top_over_median", "Mean of the largest 0.2 % over the median", OUTLIER, 1.0),
)
LEAST_TOP = OUTLIER
REMEMBERED = "outliers of"


@dataclass(frozen=True)
class Shown:
    """One run as this page shows it."""

    name: str
    preset: str
    run_id: str
    norm_maps: str | None
    statistics: list[OutlierStatistics]


def show(view: View) -> None:
    """Draw the page."""
    st.title("Outliers")
    st.markdown(
        "Some networks give a few tokens norms many times those of the others. Registers are meant to take that role "
        "from the patches."
    )
    asked = st.query_params.get("run") or st.session_state.get(REMEMBERED)
    _go_to_board_of(view, asked)
    choice = choose(view)
    if choice is None:
        return
    runs = cached(compare_queries.named_runs, view, choice.board, choice.metric, choice.better)
    picked = _pick(runs, asked, cached(outlier_queries.largest, view, choice.board))
    shown = [_shown(view, run) for run in _with_matched(runs, picked)]
    st.markdown(" · ".join(f"[{plain(each.name)}]({links.RUN}{each.run_id})" for each in shown))
    _show_verdicts(shown)
    table = pd.concat([outlier_queries.table(each.statistics, each.name) for each in shown], ignore_index=True)
    if not table.empty:
        _show_heat_maps(table)
        _show_kinds(table, shown)
        _show_registers(table, shown)
    _show_norm_maps(view, shown)


def _go_to_board_of(view: View, run_id: str | None) -> None:
    """Choose the board of a run that the address names, unless the address names a board too."""
    if run_id is None or run_id == st.session_state.get(REMEMBERED) or "task" in st.query_params:
        return
    place = cached(outlier_queries.place_of, view, run_id)
    if place is not None:
        st.session_state["task"], st.session_state["protocol"] = place.task, place.protocol


def _pick(runs: pd.DataFrame, asked: str | None, largest: str | None) -> pd.Series:
    """The run in the address, or the one of the board with the largest norm; an arm and a seed choose another."""
    if asked != st.session_state.get(REMEMBERED) or "outlier arm" not in st.session_state:
        known = [runs[runs["run_id"] == each] for each in (asked, largest) if each is not None]
        first = next((found.iloc[0] for found in known if not found.empty), runs.iloc[0])
        st.session_state["outlier arm"], st.session_state["outlier seed"] = first["arm"], str(first["seed"])
    left, right = st.columns([3, 1])
    arms = list(dict.fromkeys(runs["arm"]))
    arm = left.selectbox("Run of the arm", arms, key="outlier arm")
    of_arm = runs[runs["arm"] == arm]
    seed = right.selectbox("Seed", [str(seed) for seed in of_arm["seed"]], key="outlier seed")
    picked: pd.Series = of_arm[of_arm["seed"].astype(str) == seed].iloc[0]
    st.query_params["run"] = st.session_state[REMEMBERED] = str(picked["run_id"])
    return picked


def _with_matched(runs: pd.DataFrame, picked: pd.Series) -> list[pd.Series]:
    """The matched run without registers, where there is one, and the run itself."""
    matched = runs[(runs["run_id"] == picked["none_run_id"]) & (runs["run_id"] != picked["run_id"])]
    return [*(run for _, run in matched.iterrows()), picked]


def _shown(view: View, run: pd.Series) -> Shown:
    return Shown(
        name=f"{run['arm']}, seed {run['seed']}",
        preset=str(run["registers"]),
        run_id=str(run["run_id"]),
        norm_maps=None if pd.isna(run["norm_maps"]) else str(run["norm_maps"]),
        statistics=cached(outlier_queries.statistics, view, str(run["record_id"])),
    )


def _show_verdicts(shown: Sequence[Shown]) -> None:
    for each in shown:
        verdict, sentence = outlier_queries.verdict_in_words(each.statistics)
        st.markdown(f"{plain(each.name)}: **{verdict}**. {sentence}")
    if len(shown) == 1 and shown[0].preset == "none":
        st.caption("This run has no registers: choose an arm that has some to see before and after.")
    elif len(shown) == 1:
        st.caption("There is no record of the same run without registers: nothing stands beside it.")
    st.caption(outlier_queries.rule())


def _show_heat_maps(table: pd.DataFrame) -> None:
    """One row for each measure: every run on the same scale."""
    st.subheader("By block and noise level")
    names = list(dict.fromkeys(table["run"]))
    for column, title, least, bottom in MEASURES:
        st.markdown(f"**{title}**")
        if table[column].isna().all():
            st.info("These older records did not measure it.")
            continue
        top = max(least, float(table[column].max()))
        for place, name in zip(st.columns(max(len(names), 2)), names, strict=False):
            with place:
                _show_heat_map(table[table["run"] == name], column, name, top, bottom)
    st.caption("Means over the probed images. Each measure has one colour scale for both runs.")


def _show_heat_map(statistics: pd.DataFrame, column: str, name: str, top: float, bottom: float) -> None:
    st.caption(plain(name))
    if statistics[column].isna().all():
        st.info("This older record did not measure it.")
    else:
        draw(outlier_charts.heat_map, statistics, column, "", top, bottom)


def _show_kinds(table: pd.DataFrame, shown: Sequence[Shown]) -> None:
    st.subheader("Two kinds of outlier")
    presets = [each.preset for each in shown if each.statistics]
    left, right = st.columns(2)
    with left:
        st.markdown("**A few tokens**: patches whose norm is far above the others'. These are what registers address.")
        draw(outlier_charts.over_blocks, table, "max_over_median", "largest patch / median", presets)
    with right:
        st.markdown("**A few channels**: large for all patches alike. Registers do not address these.")
        if table["large_channels"].isna().all():
            st.info("These older records did not count large channels.")
        else:
            draw(outlier_charts.over_blocks, table, "large_channels", "large channels", presets)
    st.markdown("**How much of the largest patch lies in three channels**")
    draw(outlier_charts.over_blocks, table, "channel_share", "share of its energy", presets)
    st.caption(
        "Lines are means over noise levels, bands from the least to the most of any. A large token whose energy lies "
        "in three channels is large there alone; a channel counts as large where its median over the patches is above "
        "ten times that of the median channel."
    )


def _show_registers(table: pd.DataFrame, shown: Sequence[Shown]) -> None:
    st.subheader("The registers' own norms")
    has_any = table["register_max_over_median"].notna()
    if not has_any.any():
        st.info("Neither run has registers in its blocks, or these older records did not measure them.")
        return
    presets = [each.preset for each in shown if each.statistics]
    columns = (("register_max_over_median", "largest register"), ("register_median_over_median", "median register"))
    for place, (column, title) in zip(st.columns(2), columns, strict=True):
        with place:
            if table[column].isna().all():
                st.info(f"These older records did not measure the {title}.")
            else:
                draw(outlier_charts.over_blocks, table, column, f"{title} / median patch", presets)
    st.caption("In units of the median patch of the same image; 1 is a register as large as the median patch.")


def _show_norm_maps(view: View, shown: Sequence[Shown]) -> None:
    st.subheader("Norm maps over sample images")
    found = {each.name: maps for each in shown if (maps := _maps(view, each)) is not None}
    if not found:
        return
    last = list(found.values())[-1]
    time, block = _place(last)
    at_place = {name: maps.at(time, block) for name, maps in found.items() if _has(maps, time, block)}
    largest = {name: [float(norms.max()) for norms in maps] for name, maps in at_place.items()}
    top = max([LEAST_TOP, *(each for row in largest.values() for each in row if each == each)])  # noqa: PLR0124 - NaN
    st.caption("Images")
    st.image(norm_maps.strip_of_images(last))
    for name, norms in at_place.items():
        st.caption(f"{plain(name)}: largest norm {', '.join(f'{each:.3g}' for each in largest[name])} medians")
        st.image(norm_maps.strip_of_norms(norms, top))
        registers = found[name].registers_at(time, block)
        if registers:
            st.caption(f"Its registers: {', '.join(f'{each:.3g}' for each in registers)} medians (mean over images)")
    st.image(norm_maps.colour_bar())
    st.caption(
        f"The colour scale, the same for all maps: from 0 (left) to {top:.3g} medians (right). Grey: not finite."
    )


def _maps(view: View, shown: Shown) -> NormMaps | None:
    """The norm maps of a run; None, and a sentence in their place, where there are none."""
    if shown.norm_maps is None:
        st.info(
            f"The record of {plain(shown.name)} came without norm maps, as all older ones. "
            "Repeating the run with `--again` makes some."
        )
        return None
    try:
        return norm_maps.read(view.results / shown.norm_maps)
    except UserError as error:
        st.warning(plain(f"{error.problem}: {error.remedy}."))
        return None


def _place(maps: NormMaps) -> tuple[str, int]:
    """Which noise level and block to look at: at first where the largest norm is."""
    time, block = maps.largest_place()
    left, right = st.columns(2)
    if len(maps.blocks) > 1:
        block = left.select_slider("After block", maps.blocks, value=block, key="block", bind="query-params")
    if len(maps.times) > 1:
        time = right.select_slider("Noise level t", maps.times, value=time, key="t", bind="query-params")
    return time, block


def _has(maps: NormMaps, time: str, block: int) -> bool:
    return time in maps.times and block in maps.blocks
