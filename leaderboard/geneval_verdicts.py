"""What was decided of each prompt's images, from the file beside a record."""

from collections import Counter
from pathlib import Path
from typing import Final

import pandas as pd

from harness import store
from harness.attachments import path_beside
from harness.errors import UserError
from harness.metrics.geneval.verdict_files import read_verdicts
from harness.metrics.geneval.verdicts import PromptVerdicts

COLUMNS: Final = ("category", "prompt", "correct", "images", "reasons")


def of_prompts(results: Path, path: str) -> pd.DataFrame | None:
    """A row for each prompt of the record at `path` below the results; None where it came without verdicts.

    Columns: category, prompt, correct and images (how many of how many were right), reasons (why the others are not, in
    the official words, each with the number of images).  Raises UserError where a file is missing or damaged.
    """
    stored = store.read(results / path)
    if isinstance(stored, store.Problem):
        raise UserError(f"{path} is no valid record any more: {stored.reason}", "run `python -m harness index`")
    attachment = stored.record.verdicts
    if attachment is None:
        return None
    beside = path_beside(Path(path), "verdicts")
    try:
        verdicts = read_verdicts(results / beside, attachment)
    except UserError as error:
        # The whole path names the folder, which is no business of the public's.
        raise UserError(error.problem.replace(str(results / beside), str(beside)), error.remedy) from error
    return pd.DataFrame([_row(each) for each in verdicts], columns=list(COLUMNS))


def _row(verdicts: PromptVerdicts) -> tuple[str, str, int, int, str]:
    reasons = Counter(line for image in verdicts.images if not image.correct for line in image.reason.splitlines())
    return (
        verdicts.prompt.tag,
        verdicts.prompt.prompt,
        sum(image.correct for image in verdicts.images),
        len(verdicts.images),
        "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common()),
    )
