"""Rebuild the database from what `validate` accepts, and from nothing else (torch only for what is new)."""

from dataclasses import replace
from pathlib import Path

from harness.contributing.refusals import keep_refusals
from harness.contributing.validation import validate
from harness.contributing.verdict import Verdict
from harness.database import Index, rebuild
from harness.store import Problem


def index_validated(results: Path) -> Index:
    """`rebuild` after a validation of everything, whose refusals every later rebuild heeds too."""
    return index_accepted(results, validate((), results))


def index_accepted(results: Path, verdict: Verdict) -> Index:
    """`rebuild` without what a verdict over all of the results refused.

    The index's problems are all files that were refused, whether they would have become rows or not.
    """
    keep_refusals(results, verdict.refused)
    index = rebuild(results)
    refused = {results / path: reason for path, reason in verdict.refused.items()}
    others = [problem for problem in index.problems if problem.path not in refused]
    return replace(index, problems=[*(Problem(path, reason) for path, reason in refused.items()), *others])
