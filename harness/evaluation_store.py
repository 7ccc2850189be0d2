"""Keep the records of evaluations, each a file of its own, and find them again (no torch)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harness.attachments import attachment_of, path_beside
from harness.errors import UserError
from harness.evaluation_records import EvaluationRecord
from harness.files import write_bytes, write_text
from harness.plain_files import reason_of
from harness.store import Problem, content_of

EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class StoredEvaluation:
    """A record and the file that it was read from."""

    record: EvaluationRecord
    path: Path

    @property
    def record_id(self) -> str:
        return self.path.stem


def append_evaluation(results: Path, record: EvaluationRecord, verdicts: bytes | None = None) -> Path:
    """Write a record as a new file, after the verdicts that it names, validated as a reader would; returns its path.

    An existing file is never overwritten.  Raises UserError where the folder cannot be written.
    """
    text = record.model_dump_json(indent=1) + "\n"
    assert EvaluationRecord.model_validate_json(text) == record, "a record that reads back differently"
    path = results / EVALUATIONS / f"{record.created:%Y%m%dT%H%M%S%fZ}-{record.evaluation_id}.json"
    if path.exists():
        raise UserError(f"{path} exists already, and records are never overwritten", "run the command again")
    if verdicts is not None:
        assert attachment_of(verdicts) == record.verdicts, "other verdicts than the record names"
        write_bytes(path_beside(path, "verdicts"), verdicts)
    write_text(path, text)
    return path


def find_evaluation(results: Path, evaluation_id: str) -> StoredEvaluation | None:
    """The newest record of an evaluation.  Raises UserError where that file is no valid record."""
    paths = sorted((results / EVALUATIONS).glob(f"*-{evaluation_id}.json"))
    if not paths:
        return None
    found = _read(paths[-1])
    if isinstance(found, Problem):
        raise UserError(
            f"{found.path} is not a valid record: {found.reason}", "restore it, or move it away to evaluate anew"
        )
    return found


def read_each_evaluation(results: Path) -> Iterator[StoredEvaluation | Problem]:
    """Every file of `results/evaluations`, in the order of their names, one at a time."""
    return map(_read, sorted((results / EVALUATIONS).rglob("*.json")))


def _read(path: Path) -> StoredEvaluation | Problem:
    content = content_of(path)
    if isinstance(content, Problem):
        return content
    try:
        record = EvaluationRecord.model_validate_json(content)
    except ValidationError as error:
        return Problem(path, reason_of(error))
    if not path.stem.endswith(record.evaluation_id):
        return Problem(path, f"the file's name does not end in its evaluation_id {record.evaluation_id}")
    return StoredEvaluation(record, path)
