"""The page "Submit": how a backbone or a result comes in, and what is checked on the way."""

import streamlit as st

from harness.contributing.rules import RULES
from leaderboard.text import plain
from leaderboard.view import View

LONG = 400

RESULT = (
    (
        "Run it, beside its matched run without registers.",
        "python -m harness run --backbone sit --registers dsr --seeds 0-2",
    ),
    (
        "Put the records on a branch, with their pictures and the moments of their features.",
        "python -m harness submit RUN_ID",
    ),
    ("Check what is on the branch, exactly as CI will.", "python -m harness validate"),
    ("Push the branch as `submit` says, and open a pull request with the template *result*.", ""),
)
BACKBONE = (
    ("Write a file that runs as it is, with the places to fill.", "python -m harness new my-backbone"),
    (
        "Fill the places. Then run the contract's tests and two short trainings; it writes a report.",
        "python -m harness check my-backbone",
    ),
    ("Commit, push, and open a pull request with the template *backbone*; paste the report.", ""),
)
WITHOUT_A_FORK = "python -m harness run --backbone path/to/file.py:name --registers dsr --seeds 0-2"
WITHDRAWAL = 'python -m harness withdraw RECORD --reason "why it is not to count"'


def show(view: View) -> None:
    """Draw the page."""
    del view
    st.title("Submit")
    st.markdown(
        "Results and backbones arrive by pull request. Every step runs on your machine first; what is checked there is "
        "what is checked in CI. A result that shows nothing, or that diverged, is as welcome as one that does."
    )
    left, right = st.columns(2)
    with left:
        _show_steps("A result", RESULT)
    with right:
        _show_steps("A backbone", BACKBONE)
        st.subheader("A backbone without a pull request")
        st.markdown("A local file runs through everything; its results are marked as a third party's.")
        st.code(WITHOUT_A_FORK, language="bash", wrap_lines=True)
        st.subheader("Taking a result back")
        st.markdown("A record is never deleted. It is withdrawn, with a reason that stays readable.")
        st.code(WITHDRAWAL, language="bash", wrap_lines=True)
    _show_rules()


def _show_steps(title: str, steps: tuple[tuple[str, str], ...]) -> None:
    st.subheader(title)
    for number, (sentence, command) in enumerate(steps, start=1):
        st.markdown(f"{number}\\. {sentence}")
        if command:
            st.code(command, language="bash", wrap_lines=True)


def _show_rules() -> None:
    """What `validate` checks, in the words that its refusals use."""
    st.subheader(f"What is checked: {len(RULES)} rules")
    st.markdown(
        "`python -m harness validate [PATHS]` refuses with a sentence that names the file, the rule, what is wrong and "
        "what to do. What it accepts is what the board loads."
    )
    st.markdown("\n".join(f"* **{rule.name}**: {plain(rule.says, LONG)}" for rule in RULES))
