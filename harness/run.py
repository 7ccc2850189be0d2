"""Find the result of a run, or make it (no torch until it has to be made)."""

from dataclasses import dataclass
from pathlib import Path

from harness import database, store, workspace
from harness.errors import UserError
from harness.files import require_writable
from harness.progress import say
from harness.records import RunRecord
from harness.spec import RunConfig


@dataclass(frozen=True)
class Outcome:
    """A run's record, where it is, and the record of its matched arm without registers, if there is one."""

    record: RunRecord
    path: Path
    is_new: bool
    none: RunRecord | None


def run(config: RunConfig, *, again: bool = False) -> Outcome:
    """The stored result of this run, or a new one: trained, sampled, measured, appended to the results.

    An interrupted run goes on where it stopped.  `again` makes a further record of a run that has one.
    Raises UserError for whatever only shows on the way: a full disk, an unreadable image, a damaged checkpoint.
    """
    results = Path(config.execution.results)
    stored = store.find(results, config)
    if stored is not None and not again:
        _judge_further(config, stored.record)
        return Outcome(stored.record, stored.path, is_new=False, none=_matched_none(results, config))
    require_writable(results)
    with workspace.enter(config) as space:
        record = space.finished()
        if again and record is not None and _is_published(results, record):
            space.clear()
            record = None
        if record is None:
            from harness.perform import perform

            record = perform(config, space)
            space.keep(record)
        path = _publish(results, record, space)
    return Outcome(record, path, is_new=True, none=_matched_none(results, config))


def _judge_further(config: RunConfig, record: RunRecord) -> None:
    """Judge the samples of a finished run against references that its record does not have, as `eval --run` does."""
    bases = [measurement.basis for measurement in record.measurements if measurement.basis]
    known = {basis.reference.name for basis in bases if basis.reference}
    further = tuple(name for name in config.execution.references if name not in known)
    if not further:
        return
    from harness.evaluating import evaluate_run

    path = evaluate_run(config, further)
    database.rebuild(Path(config.execution.results))
    say(f"judged against {', '.join(further)} too: {path}")


def _is_published(results: Path, record: RunRecord) -> bool:
    return store.path_of(results, record).exists()


def _publish(results: Path, record: RunRecord, space: workspace.Workspace) -> Path:
    if _is_published(results, record):
        return store.path_of(results, record)
    path = store.append(results, record, space.picture.read_bytes() if record.samples else None)
    for problem in database.rebuild(results).problems:
        say(f"left out of the database: {problem.path}: {problem.reason}")
    return path


def _matched_none(results: Path, config: RunConfig) -> RunRecord | None:
    if config.registers.preset == "none":
        return None
    try:
        stored = store.find(results, config.without_registers())
    except UserError as error:
        say(f"no difference to none: {error.problem}")
        return None
    return stored.record if stored else None
