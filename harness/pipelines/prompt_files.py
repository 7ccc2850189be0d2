"""Read a user's own prompts, as JSON lines in GenEval's format (no torch)."""

from pathlib import Path

from harness.errors import UserError, disk_error
from harness.metrics.geneval.official_prompts import parse_prompt
from harness.metrics.geneval.prompt import Prompt

LARGEST = 2**26


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a file, one a line.

    Raises UserError where there is no such file, where it is too large or holds none, and for a line that is none.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise UserError(f"there is no file of prompts {path}", "give a file of JSON lines, as GenEval's") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text: {error.reason}", "give a file of JSON lines, as GenEval's") from error
    except OSError as error:
        raise disk_error(path, error) from error
    if len(text) > LARGEST:
        raise UserError(f"{path} holds more than {LARGEST:,} characters", "give the prompts alone")
    prompts = [_parsed(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not prompts:
        raise UserError(f"{path} holds no prompt", "write one on each line, as in GenEval's evaluation_metadata.jsonl")
    return tuple(prompts)


def _parsed(path: Path, number: int, line: str) -> Prompt:
    try:
        return parse_prompt(line)
    except UserError as error:
        raise UserError(f"{path}, line {number}: {error.problem}", error.remedy) from error
