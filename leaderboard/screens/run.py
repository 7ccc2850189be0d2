"""The page "Run": everything about one of them."""

import functools
import json
from pathlib import Path
from typing import Any, Final

import pandas as pd
import streamlit as st

from harness.encoder_records import OUTLIER
from harness.repeating import Repeat, repeat
from harness.spec import RunConfig
from leaderboard import compare_charts, links, outlier_charts, pictures, queries, run_queries
from leaderboard.answers import cached
from leaderboard.choice import NO_RESULTS
from leaderboard.drawing import draw
from leaderboard.findings import rounded, signed
from leaderboard.listing import ABSENT, shortened
from leaderboard.text import plain, short
from leaderboard.view import View

ASKED: Final = "run"
OFFERED: Final = 300


def show(view: View) -> None:
    """Draw the page of the run that the address names, or of one that is chosen."""
    st.title("Run")
    asked = st.query_params.get(ASKED, "")
    run_id = _choose(view, asked)
    if run_id is None:
        return
    records = cached(run_queries.records, view, run_id)
    newest = records.iloc[0]
    config = RunConfig.model_validate_json(str(newest["config"]))
    _show_heading(newest)
    _show_matched(view, newest)
    _show_values(cached(run_queries.values, view, run_id, str(newest["none_run_id"])))
    left, right = st.columns(2, gap="medium")
    with left:
        _show_samples(newest, view.results)
    with right:
        _show_outliers(newest, cached(queries.outliers, view, str(newest["record_id"])))
    _show_curves(view, newest)
    _show_how_to_repeat(repeat(config), newest)
    _show_records(records, cached(run_queries.repeats, view, run_id))
    _show_provenance(newest, view.results)


def _choose(view: View, asked: str) -> str | None:
    """The run's id; None, and a sentence, where there is none."""
    words = st.sidebar.text_input(
        "Find a run",
        key="find",
        bind="query-params",
        placeholder="backbone, registers, seed 0, run id …",
        max_chars=200,
    )
    found = cached(run_queries.found, view, tuple((words or "").lower().split()), OFFERED)
    titles = {row.run_id: short(f"{row.backbone}, {row.registers}, seed {row.seed}", 80) for row in found.itertuples()}
    is_known = bool(asked) and not cached(run_queries.records, view, asked).empty
    if asked and not is_known:
        st.warning(f"There is no run {plain(asked, 60)} in these results.")
    if is_known and asked not in titles:
        titles = {asked: "the run of this address", **titles}
    if not titles:
        st.info(f"No run has these words: {plain(words)}." if words else NO_RESULTS)
        return None
    ids = list(titles)
    # Another address is another selector: it must not hold on to what was chosen before.
    key = f"run after {asked} {words}"
    chosen = st.sidebar.selectbox(
        "Run",
        ids,
        index=ids.index(asked) if is_known else 0,
        format_func=lambda run_id: f"{titles[run_id]} ({run_id})",
        key=key,
        on_change=functools.partial(_go_to, key),
        help=f"The first {OFFERED} that were found; a word or two finds others.",
    )
    return str(chosen)


def _go_to(key: str) -> None:
    st.query_params[ASKED] = st.session_state[key]


def _show_heading(run: pd.Series) -> None:
    registers = "without registers" if run["registers"] == "none" else f"registers {plain(run['registers'], 60)}"
    st.subheader(f"{plain(run['name'], 80)}, {registers}, seed {run['seed']}", anchor=False)
    facts = [
        f"run `{run['run_id']}`",
        plain(run["status"])
        + (f" at step {int(run['diverged_at_step'])}" if pd.notna(run["diverged_at_step"]) else ""),
        f"**{run['badge']}**",
        f"task {plain(run['task'], 60)}",
        f"stages: {plain(run['stages'])}",
        f"{int(run['steps']):,} steps",
    ]
    if pd.notna(run["third_party"]):
        facts.append(f"**third party**: {plain(run['third_party'], 80)}, which is no part of this repository")
    st.markdown(" · ".join(facts))
    st.caption(plain(run["protocol"]))
    for note in filter(None, str(run["notes"]).splitlines()):
        st.info(plain(note, 1000))


def _show_matched(view: View, run: pd.Series) -> None:
    if run["registers"] == "none":
        return
    if cached(run_queries.records, view, str(run["none_run_id"])).empty:
        st.caption("These results have no matched run without registers.")
    else:
        st.markdown(f"[The matched run without registers]({links.RUN}{run['none_run_id']})")


def _show_values(values: pd.DataFrame) -> None:
    """Every number with its parts, beside the matched one without registers."""
    if values.empty:
        st.info("This run measured nothing.")
        return
    headline = values[values["is_judged"]].head(4)
    if len(headline):
        st.markdown(" · ".join(_headline(value) for _, value in headline.iterrows()))
    st.markdown("**All measurements**")
    shown = values.assign(parts=[_parts(str(text)) for text in values["parts"]])
    columns = ["title", "value", "standard_error", "base", "difference", "unit", "num_images", "parts", "note"]
    numbers = {name: st.column_config.NumberColumn(_HEADINGS.get(name), format="%.4g") for name in columns[1:5]}
    st.dataframe(shortened(shown[columns]), hide_index=True, placeholder=ABSENT, column_config={**_TEXTS, **numbers})
    st.caption(
        "Standard error: over the generated images (jackknife), not over trainings. One run proves "
        "little: what several seeds say stands on the leaderboard."
    )


def _headline(value: pd.Series) -> str:
    change = f" ({signed(value['difference'])} against none)" if pd.notna(value["difference"]) else ""
    return f"{plain(value['title'], 60)} **{rounded(value['value'], 4)}**{change}"


_HEADINGS: Final = {"standard_error": "std. error", "base": "none", "difference": "Δ none"}
_TEXTS: Final[dict[str, Any]] = {"num_images": "images"}


def _parts(text: str) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in json.loads(text).items())


def _show_samples(run: pd.Series, results: Path) -> None:
    st.markdown("**Samples**")
    if pd.isna(run["samples"]):
        st.info("This run made no samples." if run["status"] == "finished" else "This run diverged: no samples.")
        return
    picture = pictures.opened(results / str(run["samples"]))
    if picture is not None:
        st.image(picture, caption="A row per class or prompt, none picked", width="stretch")
    else:
        st.warning(f"The picture {plain(run['samples'])} is missing or damaged.")


def _show_outliers(run: pd.Series, statistics: pd.DataFrame) -> None:
    st.markdown("**Outlier tokens**: largest patch-token norm over the median, mean over images")
    if statistics.empty:
        st.info("This run was not probed for outliers.")
    else:
        top = max(OUTLIER, float(statistics["max_over_median"].max()))
        draw(outlier_charts.heat_map, statistics, "max_over_median", "largest norm, in medians", top, bottom=1.0)
        st.caption(
            f"A patch is an outlier above {OUTLIER:g} medians. [More of this run's norms](outliers?run={run['run_id']})"
        )


def _show_curves(view: View, run: pd.Series) -> None:
    runs = pd.DataFrame({"arm": ["this run"], "registers": [run["registers"]], "backbone": [run["name"]]})
    curves = [cached(run_queries.curve, view, str(run["run_id"])).assign(arm="this run")]
    if curves[0].empty:
        return
    if run["none_run_id"] != run["run_id"]:
        matched = "without registers"
        curves.append(cached(run_queries.curve, view, str(run["none_run_id"])).assign(arm=matched))
        runs.loc[1] = [matched, "none", run["name"]]
    both = pd.concat(curves)
    st.markdown("**Training loss**")
    draw(compare_charts.learning_curves, both.assign(least=both["loss"], most=both["loss"], seeds=1), runs)


def _show_how_to_repeat(found: Repeat, run: pd.Series) -> None:
    st.markdown("**The command that repeats it**")
    st.code(found.command, language="bash", wrap_lines=True)
    if found.is_sure:
        st.caption(f"Resolved here: it gives the run id {run['run_id']}. Add `--again`, as this run has a record.")
    else:
        needs = "\n".join(f"- {plain(need, 400)}" for need in found.needs)
        st.markdown(f"It cannot be checked from here, as it needs what the record names but does not hold:\n{needs}")
    st.markdown("**Set beside the defaults of its family and task**")
    if found.settings is None:
        st.info("The defaults cannot be worked out here; the whole configuration stands below.")
    elif not found.settings:
        st.caption("Nothing: every field is at its default.")
    else:
        rows = [(each.field, _shown(each.default), _shown(each.value)) for each in found.settings]
        st.dataframe(pd.DataFrame(rows, columns=["field", "default", "this run"]), hide_index=True)


def _shown(value: object) -> str:
    return "none" if value is None else short(value if isinstance(value, str) else json.dumps(value))


def _show_records(records: pd.DataFrame, values: pd.DataFrame) -> None:
    """The record that counts is the newest; the others show how much a repeat moves."""
    if len(records) > 1:
        st.markdown(f"**{len(records)} records of this run**, of which the newest counts")
        numbers = {name: st.column_config.NumberColumn(format="%.4g") for name in ("value", "standard_error")}
        st.dataframe(shortened(values), hide_index=True, placeholder=ABSENT, column_config=numbers)


def _show_provenance(run: pd.Series, results: Path) -> None:
    path, commit = str(run["path"]), run["commit"]
    st.markdown("**Where it comes from**")
    told = [f"record {_linked(plain(path, 400), links.record(path))}", f"made {run['created']:%Y-%m-%d %H:%M} UTC"]
    if pd.notna(commit):
        changes = " with changes that no commit has" if pd.notna(run["dirty"]) and run["dirty"] else ""
        told.append(f"at commit {_linked(plain(commit), links.commit(str(commit)))}{changes}")
    st.markdown(" · ".join([*told, f"on {plain(run['device'])}"]))
    record = results / path
    if record.is_file():
        st.download_button(
            "Download the record", record.read_bytes, record.name, "application/json", on_click="ignore", key="record"
        )
    else:
        st.warning("The record's file is not there any more: the database is older than the folder.")
    for title, column in (
        ("Configuration", "config"),
        ("Conditions of comparison", "conditions"),
        ("Circumstances", "circumstances"),
        ("Provenance: code, versions, machine", "provenance"),
    ):
        with st.expander(title):
            st.json(str(run[column]), expanded=2)


def _linked(words: str, address: str) -> str:
    return f"[{words}]({address})" if address else words
