"""Put records of runs on a branch that is ready for a pull request."""

import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import store
from harness.contributing.branching import Checkout, find_checkout
from harness.contributing.candidates import Candidate, Places, Wanted, find_candidate
from harness.errors import UserError
from harness.records import Measurement, RunRecord
from harness.repeating import repeat

RESULTS = "results"
TEMPLATE = ".github/PULL_REQUEST_TEMPLATE/result.md"


@dataclass(frozen=True)
class Wish:
    """What is to be submitted, and how; `branch` None stands for a name after the first run."""

    run_ids: Sequence[str]
    places: Places
    references: Path = Path("references")
    branch: str | None = None
    moments: Wanted = "where there are some"
    allow_dirty: bool = False


@dataclass(frozen=True)
class Submitted:
    """The branch with its one commit, the files on it by their paths from the root, and what its author should know."""

    branch: str
    start: str
    commit: str
    message: str
    files: tuple[str, ...]
    notes: tuple[str, ...]

    def report(self) -> str:
        """What was done, and what to do next."""
        lines = [f"branch   {self.branch}, from {self.start}", f"commit   {self.commit[:12]}"]
        lines += [f"file     {path}" for path in self.files]
        lines += [f"note     {note}" for note in self.notes]
        lines += [
            "",
            f"next     git push -u origin {self.branch}",
            f"         then open a pull request with the template {TEMPLATE}, which begins with:",
            "",
            *(f"    {line}".rstrip() for line in self.message.splitlines()),
        ]
        return "\n".join(lines)


def submit(wish: Wish, place: Path) -> Submitted:
    """Make a branch of the checkout around `place` whose one commit adds the records, if `validate` accepts them.

    Nothing else of the checkout changes.  Raises UserError for an unknown run, a record of uncommitted code unless
    those are allowed, one that was submitted already, whatever `validate` refuses, and what git refuses.
    """
    checkout = find_checkout(place)
    if not checkout.holds(checkout.commit, RESULTS):
        raise UserError(f"{checkout.root} is a checkout of something else: it has no {RESULTS}/", "run it in a clone")
    candidates = [find_candidate(run_id, wish.places, wish.moments) for run_id in dict.fromkeys(wish.run_ids)]
    branch = wish.branch or _name(candidates[0].record)
    _require_new(checkout, branch, candidates)
    if not wish.allow_dirty:
        _require_committed_code(candidates)
    files = {f"{RESULTS}/{path}": content for each in candidates for path, content in each.files.items()}
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder).resolve()
        remarks = _validated(checkout, files, staged, wish.references)
        arms = [_Arm(each.record, _matched(each.record, staged / RESULTS)) for each in candidates]
    notes = (*_notes(candidates), *remarks, *_missing(arms, wish.places), *_in_the_way(checkout, files, branch))
    message = _message(arms)
    commit = checkout.add_branch(branch, files, message)
    return Submitted(branch, checkout.start, commit, message, tuple(files), notes)


@dataclass(frozen=True)
class _Arm:
    """A record, and that of its matched run without registers, where it is on the branch."""

    record: RunRecord
    none: RunRecord | None

    @property
    def is_matched(self) -> bool:
        return self.none is not None or self.record.config.registers.preset == "none"

    def title(self) -> str:
        config = self.record.config
        return f"{config.exact_name}, {config.registers.preset} on {config.task.name}, seed {config.seed}"

    def words(self) -> str:
        """What it shows, in one line."""
        if self.record.status == "diverged":
            return f"{self.title()}: diverged"
        judged = [m for m in self.record.measurements if m.name == self.record.config.task.metric]
        told = "; ".join(map(self._value, judged or [m for m in self.record.measurements if m.basis][:1]))
        return f"{self.title()}: {told or 'not judged'}"

    def _value(self, measurement: Measurement) -> str:
        guidance = measurement.basis.guidance.words() if measurement.basis else ""
        value = f"{measurement.name} {measurement.value:.4g}" + (f" ({guidance})" if guidance else "")
        none = self.none and self.none.of_key(self.record.key(measurement).without_register_guidance())
        return f"{value}, {measurement.value - none.value:+.4g} to none" if none else value


def _name(record: RunRecord) -> str:
    return f"results/{record.config.backbone}-{record.config.registers.preset}-{record.run_id}"


def _require_new(checkout: Checkout, branch: str, candidates: Sequence[Candidate]) -> None:
    """Raise UserError where a record was submitted already, or the branch cannot be made."""
    for each in candidates:
        for revision in (branch, checkout.commit) if checkout.has_branch(branch) else (checkout.commit,):
            if checkout.holds(revision, f"{RESULTS}/{each.path}"):
                where = revision if revision == branch else checkout.start
                raise UserError(
                    f"the record of run {each.record.run_id} is on {where} already: {RESULTS}/{each.path}",
                    f"push it: git push -u origin {branch}" if revision == branch else "leave this run out",
                )
    checkout.require_name(branch)


def _require_committed_code(candidates: Sequence[Candidate]) -> None:
    for record in (each.record for each in candidates):
        if record.provenance.dirty:
            raise UserError(
                f"the code that made run {record.run_id} was not commit {str(record.provenance.commit)[:12]} alone: "
                "it had changes that nobody else can see",
                "commit them and make the run anew by its command with --again, or add --dirty: the record says so",
            )


def _validated(checkout: Checkout, files: Mapping[str, bytes], staged: Path, references: Path) -> list[str]:
    """What `validate` remarks on these files where they will lie.  Raises UserError where it refuses one."""
    checkout.export(RESULTS, staged)
    for path, content in files.items():
        (staged / path).parent.mkdir(parents=True, exist_ok=True)
        (staged / path).write_bytes(content)
    from harness.contributing.validation import validate

    verdict = validate([staged / path for path in files], staged / RESULTS, references=references)
    if verdict.faults:
        told = "\n".join(f"  {fault}" for fault in verdict.faults)
        raise UserError(f"`validate` refuses what would be submitted:\n{told}", "no branch was made")
    # On the whole it remarks that nothing is compared with main: what is staged has main's files and new ones alone.
    return [str(remark) for remark in verdict.remarks if f"{RESULTS}/{remark.path}" in files]


def _matched(record: RunRecord, results: Path) -> RunRecord | None:
    """The record of the matched run without registers that will be on the branch, or None."""
    if record.config.registers.preset == "none":
        return None
    stored = store.find(results, record.config.without_registers())
    return stored.record if stored else None


def _message(arms: Sequence[_Arm]) -> str:
    """A title, and a line for each run."""
    first = arms[0]
    title = f"Result: {first.title()}" if len(arms) == 1 else f"Results: {len(arms)} runs on {_tasks(arms)}"
    lines = [f"- {arm.record.run_id} {arm.words()}" for arm in arms]
    return "\n".join([title, "", *lines, ""])


def _tasks(arms: Sequence[_Arm]) -> str:
    return ", ".join(dict.fromkeys(arm.record.config.task.name for arm in arms))


def _notes(candidates: Sequence[Candidate]) -> Iterator[str]:
    for each in candidates:
        run_id, provenance = each.record.run_id, each.record.provenance
        if provenance.dirty:
            yield f"run {run_id} WAS MADE BY CODE WITH UNCOMMITTED CHANGES: its record says so, reviewers will ask why"
        elif provenance.commit is None:
            yield f"run {run_id} was made outside a checkout: which commit made it is not known"
        yield from (f"run {run_id} comes {note}" for note in each.notes)


def _missing(arms: Sequence[_Arm], places: Places) -> Iterator[str]:
    """For each run whose matched one is not on the branch: how to bring it."""
    for arm in arms:
        if arm.is_matched:
            continue
        none = arm.record.config.without_registers()
        words = f"run {arm.record.run_id} has no difference to show: the matched run without registers is missing"
        if store.find(places.results, none) is not None:
            yield f"{words}; it is in {places.results}: submit {none.run_id} too"
            continue
        again = repeat(none)
        needed = f" (needs {'; '.join(again.needs)})" if again.needs else ""
        yield f"{words}; make it, and submit it too: {again.command}{needed}"


def _in_the_way(checkout: Checkout, files: Mapping[str, bytes], branch: str) -> Iterator[str]:
    """Git overwrites no file that it does not know, were it the same: it would not pull what was merged.

    `git clean` removes of these files none that git knows, whatever is checked out by then.
    """
    if any((checkout.root / path).exists() and not checkout.holds("HEAD", path) for path in files):
        yield (
            "once this is merged, and before you pull, remove your own copies: "
            f"git diff -z --name-only {checkout.commit[:12]} {shlex.quote(branch)} | xargs -0 git clean -fq --"
        )
