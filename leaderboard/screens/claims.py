"""The page "Claims": what is published, what our records say of it, and which runs that rests on."""

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pandas as pd
import streamlit as st

from harness.claims import OutOfReach
from harness.errors import UserError
from harness.published import Figure, Published, Source
from harness.text_table import counted
from leaderboard import links
from leaderboard.answers import cached
from leaderboard.bound import select
from leaderboard.claims import Judgement, Pair, Row, Verdict, judgements
from leaderboard.text import plain, short
from leaderboard.view import View

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
NO_TASK = "no task yet"
ABSENT = "–"
TABLE_HEIGHT = 460
COLUMNS = [
    *("id", "claim", "of these runs", "as published", "task", "arms", "metric", "ours", "95 % interval", "claimed"),
    *("seeds", "what is tested", "paper"),
]
LONG = 2000
HOW_TO_READ = """
* **Of these runs** is the verdict of the runs here alone: *confirmed* or *contradicted* where the 95 % interval over
  training seeds lies wholly where the claim has it, or wholly elsewhere. One seed is always *inconclusive*.
* **As published** is the verdict at the published task, backbone, registers and length. That is another matter: digits
  are 8 x 8 pixels and their networks tiny, and what they confirm or contradict may be otherwise at scale.
* A distance that is not known to be to the published reference is at most *inconclusive* as published.
"""


def show(view: View) -> None:
    """Draw the page."""
    st.title("Claims")
    st.markdown("What publications say of registers and outliers, in our words, and what the records here say of that.")
    try:
        published, judged = cached(judgements, view)
    except UserError as error:
        st.info(plain(f"{error.problem}; {error.remedy}.", LONG))
        return
    _show_counts(judged)
    with st.expander("How to read the verdicts"):
        st.markdown(HOW_TO_READ)
    _show_one(published, _show_table(published, judged))


def _show_counts(judged: Sequence[Judgement]) -> None:
    """How many claims have which verdict as they were published, and then what runs of each task say of them."""
    st.markdown(f"**As published**, of {counted(len(judged), 'claim')}:")
    scale = Counter(judgement.verdict for judgement in judged)
    with st.container(horizontal=True, gap="large"):
        for verdict in VERDICTS:
            words = "Claims, by runs at the published scale alone."
            st.metric(verdict.capitalize(), scale[verdict], help=words, width="content")
    for task in _tasks(judged):
        here = Counter(judgement.on(task) for judgement in judged)
        said = ", ".join(f"{here[verdict]} {verdict}" for verdict in VERDICTS if here[verdict])
        st.caption(
            f"On {plain(task)}, which is another matter: {said}. A claim that its runs disagree on is inconclusive."
        )


def _tasks(judged: Sequence[Judgement]) -> list[str]:
    return sorted({row.task for judgement in judged for row in judgement.rows})


def _show_table(published: Published, judged: Sequence[Judgement]) -> list[Judgement]:
    """The table, filtered; returns the claims that passed."""
    tasks = _tasks(judged)
    left, right = st.columns(2)
    verdicts = left.multiselect("Verdict of these runs", VERDICTS, key="verdict", bind="query-params")
    chosen = right.multiselect("Tested on", [*tasks, NO_TASK], key="tested", bind="query-params")
    table = pd.DataFrame([line for judgement in judged for line in _lines(published, judgement)], columns=COLUMNS)
    if verdicts:
        table = table[table["of these runs"].isin(verdicts)]
    if chosen:
        table = table[table["task"].isin(chosen)]
    if table.empty:
        st.info("No claim passes these filters.")
        return []
    st.dataframe(
        table.drop(columns="id"),
        hide_index=True,
        height=TABLE_HEIGHT,
        placeholder=ABSENT,
        column_config={
            "claim": st.column_config.TextColumn(width="medium"),
            "ours": st.column_config.NumberColumn(format="%.4g"),
            "seeds": st.column_config.NumberColumn(format="%d"),
            "paper": st.column_config.LinkColumn(display_text="open"),
        },
    )
    return [judgement for judgement in judged if judgement.claim.id in set(table["id"])]


def _lines(published: Published, judgement: Judgement) -> list[dict[str, object]]:
    """The rows of a claim in the table: one for each pair of arms, or one that says that there is none."""
    claim = judgement.claim
    source = _source(published, judgement)
    told = {"id": claim.id, "claim": short(claim.text, 300)}
    rest = {"what is tested": short(claim.test.words, 300), "paper": links.paper(source.arxiv, source.url)}
    unmeasured: dict[str, object] = {
        "of these runs": "not yet measured",
        "as published": judgement.verdict,
        "task": NO_TASK,
    }
    unmeasured |= {"arms": "", "metric": "", "95 % interval": "", "claimed": ""}
    lines: list[dict[str, object]] = [
        {
            "of these runs": row.verdict,
            "as published": judgement.verdict,
            "task": row.task,
            "arms": short(_arms(row)),
            "metric": row.metric,
            "ours": row.mean,
            "95 % interval": row.interval_in_words,
            "claimed": row.bounds_in_words,
            "seeds": len(row.pairs),
        }
        for row in judgement.rows
    ]
    return [{**told, **line, **rest} for line in lines or [unmeasured]]


def _show_one(published: Published, passed: Sequence[Judgement]) -> None:
    """One claim in full."""
    if not passed:
        return
    st.subheader("One claim, and the runs that it rests on")
    by_id = {judgement.claim.id: judgement for judgement in passed}
    judgement = by_id[select("Claim", list(by_id), "claim")]
    claim, source = judgement.claim, _source(published, judgement)
    st.markdown(f"**{plain(claim.text, LONG)}**")
    place = f", {plain(claim.place)}" if claim.place else ""
    address = links.paper(source.arxiv, source.url)
    title = plain(source.title)
    st.markdown(f"Claimed in {f'[{title}]({address})' if address else title}{place}.")
    if claim.figures:
        st.markdown(f"Published: {'; '.join(_quoted(published.figures[name]) for name in claim.figures)}.")
    st.markdown(f"What we test: {plain(claim.test.words, LONG)}. As published: **{judgement.verdict}**.")
    for row in judgement.rows:
        _show_row(row)
    for sentence in _rest(judgement):
        st.caption(sentence)


def _quoted(figure: Figure) -> str:
    of = ", ".join(plain(each) for each in (figure.model, figure.arm) if each)
    return f"{plain(figure.metric)} {figure.value:g} ({of}{'' if figure.confirmed else '; unconfirmed'})"


def _show_row(row: Row) -> None:
    """One pair of arms: the number, how sure, and every run."""
    with st.container(border=True):
        st.markdown(
            f"**{plain(_arms(row))}**, {plain(row.title)}: {row.mean:.4g} ({row.interval_in_words}; "
            f"claimed {row.bounds_in_words}): **{row.verdict}**"
        )
        st.markdown(" · ".join(_pair(pair) for pair in row.pairs))
        kept_from = [*row.below_scale, *([row.another_reference] if row.another_reference else [])]
        if kept_from:
            st.caption(f"Not as published: {plain('; '.join(kept_from), LONG)}.")


def _pair(pair: Pair) -> str:
    """A seed with its runs and their values."""
    ours = f"[{pair.value.value:.4g}]({links.RUN}{pair.run.run_id})"
    if pair.base is None or pair.base_run is None:
        return f"seed {pair.run.seed}: {ours}"
    return f"seed {pair.run.seed}: {ours} − [{pair.base.value:.4g}]({links.RUN}{pair.base_run.run_id})"


def _rest(judgement: Judgement) -> list[str]:
    """What was measured and does not count, and what else is to be known."""
    claim = judgement.claim
    counts = {
        "may not be compared": len(judgement.refused),
        "have no matched baseline": len(judgement.unmatched),
        "diverged": len(judgement.diverged),
        "are over stand-in latents, which are no representation": len(judgement.set_aside),
    }
    left_out = [f"{count} {words}" for words, count in counts.items() if count]
    said = [f"Runs of these arms that do not count: {'; '.join(left_out)}."] if left_out else []
    if not judgement.rows and not isinstance(claim.test, OutOfReach) and not left_out:
        said.append("No run here tests it yet.")
    if claim.disputed_by:
        said.append(f"Disputed by: {', '.join(map(plain, claim.disputed_by))}.")
    return [*said, f"Note: {plain(claim.note, LONG)}."] if claim.note else said


def _arms(row: Row) -> str:
    return f"{row.backbone}: {row.arm} − {row.against}" if row.against else f"{row.backbone}: {row.arm}"


def _source(published: Published, judgement: Judgement) -> Source:
    return next(source for source in published.sources if source.name == judgement.claim.source)
