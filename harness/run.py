"""Find the result of a run, or make it (no torch until it has to be made)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import database, lease, store, workspace
from harness.attachments import read_whole
from harness.distributed import ALONE, World
from harness.errors import UserError
from harness.files import require_writable
from harness.progress import say
from harness.records import RunRecord
from harness.run_state import note, read_state
from harness.spec import RunConfig
from harness.workspace import BY_HAND, Worker, Workspace


@dataclass(frozen=True)
class Outcome:
    """A run's record, where it is, and the record of its matched arm without registers, if there is one."""

    record: RunRecord
    path: Path
    is_new: bool
    none: RunRecord | None


def run(config: RunConfig, world: World = ALONE, *, again: bool = False) -> Outcome:
    """The stored result of this run, or a new one: trained, sampled, measured, appended to the results.

    An interrupted run goes on where it stopped.  `again` makes a further record of a run that has one.
    Raises UserError for whatever only shows on the way: a full disk, an unreadable image, a damaged checkpoint.
    """
    outcome = advance(config, BY_HAND, world, again=again)
    assert outcome is not None, "a run without an end"
    return outcome


def advance(
    config: RunConfig, worker: Worker, world: World = ALONE, *, until_trained: bool = False, again: bool = False
) -> Outcome | None:
    """Bring a run to its record on behalf of `worker`; or `until_trained` to the end of its training, which gives None.

    Where the processes of a `world` share the work, the first one calls this, and the others `follow`.
    Raises UserError as `run` does; Taken where another process is at work on the run.
    """
    results = Path(config.execution.results)
    with _others_waiting(world) as call:
        stored = store.find(results, config)
        if stored is not None and not again:
            _tie_up(results, config, stored.record)
            _judge_further(config, stored.record)
            return Outcome(stored.record, stored.path, is_new=False, none=_matched_none(results, config))
        require_writable(results)
        with workspace.enter(config, worker) as (space, heart):
            record = _kept(results, space, again=again)
            if record is None:
                call()
                from harness.perform import perform

                with world.parting(heart.failed):
                    record = perform(config, space, world, until_trained=until_trained)
                if record is None:
                    heart.ended("trained")
                    return None
                heart.require()
                space.keep(record)
            path = _publish(results, record, space)
            heart.ended(record.status)
    return Outcome(record, path, is_new=True, none=_matched_none(results, config))


def follow(config: RunConfig, world: World, *, until_trained: bool = False) -> None:
    """Take part in what the first process of a world does, and leave record and report to it."""
    if world.agree(value=False):
        from harness.perform import perform

        perform(config, workspace.of(config), world, until_trained=until_trained)


@contextmanager
def _others_waiting(world: World) -> Iterator[Callable[[], None]]:
    """What calls the other processes to work.  If it is never called, they are sent home in the end."""
    are_called = False

    def call() -> None:
        nonlocal are_called
        are_called = world.agree(value=True)

    try:
        yield call
    finally:
        if not are_called:
            world.agree(value=False)


def _kept(results: Path, space: Workspace, *, again: bool) -> RunRecord | None:
    """The record that an earlier attempt made; one that is published already is no answer to `again`."""
    record = space.finished()
    if again and record is not None and _is_published(results, record):
        space.clear()
        return None
    return record


def _tie_up(results: Path, config: RunConfig, record: RunRecord) -> None:
    """Do what was left to do where an attempt was killed right after it had appended the record."""
    folder = workspace.of(config).folder
    state, holder = read_state(folder), lease.holder(folder)
    if state is None or state.status == record.status or (holder is not None and holder.is_alive):
        return
    database.rebuild(results)
    note(folder, record.status)


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


def _publish(results: Path, record: RunRecord, space: Workspace) -> Path:
    if _is_published(results, record):
        return store.path_of(results, record)
    picture = space.picture.read_bytes() if record.samples else None
    norm_maps = read_whole(space.norm_maps, record.norm_maps) if record.norm_maps else None
    verdicts = read_whole(space.verdicts, record.verdicts) if record.verdicts else None
    path = store.append(results, record, picture, norm_maps, verdicts)
    for problem in database.rebuild(results).problems:
        say(f"left out of the database: {problem}")
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
