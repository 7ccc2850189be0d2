"""Check files of the results as a pull request's are checked: the same here and in CI."""

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from harness.attachments import ENDINGS, path_beside
from harness.bench_records import StoredBench, read_benches
from harness.contributing import pictures, places, strict_json
from harness.contributing.attached import breaches_of_norm_maps
from harness.contributing.configurations import breaches_of_configuration
from harness.contributing.deciding_again import breaches_of_verdicts
from harness.contributing.evaluated import RunSaid, breaches_of_named_run, said_by
from harness.contributing.history import History, faults_of_history, history_of
from harness.contributing.judging_again import check_distances
from harness.contributing.plausibility import (
    AS_MADE,
    breaches_of_bench,
    breaches_of_date,
    breaches_of_evaluation,
    breaches_of_run,
    remarks_of,
)
from harness.contributing.recounting import Recounting
from harness.contributing.spelling import breaches_of_spelling
from harness.contributing.texts import breaches_of_texts
from harness.contributing.timed import breaches_of_timing
from harness.contributing.twins import Traits, faults_of_twins, traits_of_bench, traits_of_evaluation, traits_of_run
from harness.contributing.verdict import Breach, Fault, Remark, Verdict
from harness.errors import UserError
from harness.evaluation_records import EvaluationRecord
from harness.evaluation_store import StoredEvaluation, read_each_evaluation
from harness.metric_definitions import is_distance
from harness.published import read_published
from harness.records import Provenance, RunRecord
from harness.store import Problem, Stored, content_of, read_in_place
from harness.withdrawals import Withdrawal, read_withdrawals

MOST_FILES: Final = 1_000
MOST_TOTAL_BYTES: Final = 256 * 2**20

# What configuration's fault it is that nothing can be counted of it.
_UNCOUNTABLE: Final = ("backbone", "configuration")


def validate(
    paths: Sequence[Path], results: Path, *, base: str | None = None, references: Path = Path("references")
) -> Verdict:
    """Every rule of `harness.contributing.rules` over these files, or over the whole results folder without any.

    `base` is the branch or commit whose results must still be there as they were, None for origin/main or main where
    the checkout has one.  No code of a submission is imported or run.  Raises UserError for a path that there is not
    and was not at the base, or that lies elsewhere, for a results folder that there never was or that is a link, and
    for a base that git does not know.
    """
    if results.is_symlink():
        problem = f"{results} is a link: what lies elsewhere is no part of the results"
        raise UserError(problem, "name the folder itself by --results")
    history = history_of(results, base)
    committed = history.committed if history else frozenset[str]()
    if not results.is_dir() and not committed:
        raise UserError(f"there is no folder {results}: nothing is validated", "name the results by --results")
    tree = places.walk(results, history.tracked if history else None, committed)
    checking = _Checking(results, references, history, tree, _scope(paths, results, committed))
    return checking.verdict()


@dataclass
class _Checking:
    """One validation.  `scope` says which paths below the results are asked about; others are only compared with."""

    results: Path
    references: Path
    history: History | None
    tree: places.Tree
    scope: Callable[[str], bool]
    faults: list[Fault] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    traits: list[Traits] = field(default_factory=list)
    commits: dict[str, str] = field(default_factory=dict)
    configurations: dict[str, tuple[Breach, ...]] = field(default_factory=dict)
    runs: defaultdict[str, list[RunSaid]] = field(default_factory=lambda: defaultdict(list))
    without_moments: int = 0
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        self.recounting = Recounting(self.results)
        self.files = frozenset(self.tree.files)
        self.committed = self.history.committed if self.history else frozenset[str]()

    def verdict(self) -> Verdict:
        """Look at everything once."""
        self.faults += [fault for fault in self.tree.faults if self.scope(fault.record)]
        withdrawn = self._withdrawals()
        named = set(itertools.chain.from_iterable(self._run(name, withdrawn) for name in self._records()))
        named |= set(self._evaluations(withdrawn))
        self.faults += [fault for fault in places.unnamed(self.tree.files, named) if self.scope(fault.record)]
        self._benches()
        self._published()
        self.faults += [fault for fault in faults_of_twins(self.traits) if self.scope(fault.record)]
        self._history(withdrawn)
        self._count_files()
        self.recounting.keep()
        checked = [name for name in self.tree.files if self.scope(name)]
        return Verdict(tuple(dict.fromkeys(self.faults)), tuple(self._all_remarks()), checked)

    def _records(self) -> Iterator[str]:
        return (name for name in self.tree.files if places.RECORD.fullmatch(name))

    def _run(self, name: str, withdrawn: dict[str, Withdrawal]) -> Iterator[str]:
        """Check a run's record; returns the files that it names.

        A withdrawal takes back what is committed, and lets nothing in: beside such a record nothing is new.
        """
        path = self.results / name
        beside = [places.beside(name, ending) for ending in (".png", *ENDINGS.values())]
        found = read_in_place(self.results, path)
        if name in withdrawn and name in self.committed:
            yield from (file for file in beside if file in self.committed)
            if isinstance(found, Stored):
                self._note_traits(name, found, _picture_of(found), withdrawn=True)
            return
        if isinstance(found, Problem):
            yield from beside
            self._add(name, [Breach(found.rule, found.reason, AS_MADE)])
            return
        record = found.record
        wanted = (record.samples, *(record.attachments[kind] for kind in ENDINGS))
        yield from (file for file, what in zip(beside, wanted, strict=True) if what is not None)
        picture = _picture_of(found)
        self._note_traits(name, found, picture, withdrawn=False)
        if self.scope(name):
            self._add(name, self._breaches(name, found, picture))
            self._note(name, record.provenance)

    def _note_traits(self, name: str, stored: Stored, picture: bytes | Problem | None, *, withdrawn: bool) -> None:
        plain = picture if isinstance(picture, bytes) and pictures.is_plain(picture) else None
        known = name in self.committed
        self.runs[stored.record.run_id].append(said_by(stored.record))
        self.traits.append(traits_of_run(name, stored.record, known=known, picture=plain, withdrawn=withdrawn))

    def _breaches(self, name: str, stored: Stored, picture: bytes | Problem | None) -> Iterator[Breach]:
        record, path = stored.record, stored.path
        content = content_of(path)
        if isinstance(content, bytes):
            yield from breaches_of_texts(content)
            yield from breaches_of_spelling(record, content)
        yield from breaches_of_run(record, self.now)
        arm_id = stored.identity.arm_id
        if arm_id not in self.configurations:
            self.configurations[arm_id] = tuple(breaches_of_configuration(record.config))
        unfit = self.configurations[arm_id]
        yield from unfit
        if record.config.third_party is not None:
            told = record.config.third_party.file
            self._remark(
                name, f"its backbone is a third party's ({told}): parameters and GFLOPs were not counted again"
            )
        elif not any(breach.rule in _UNCOUNTABLE for breach in unfit):
            yield from self.recounting.breaches(record, arm_id)
        if picture is not None:
            yield from pictures.breaches_of_picture(record, path, picture)
        yield from self._attached(name, record, path)

    def _attached(self, name: str, record: RunRecord, path: Path) -> Iterator[Breach]:
        if record.norm_maps is not None and self._is_sound(places.beside(name, ".norms.safetensors")):
            yield from breaches_of_norm_maps(record, path)
        yield from self._verdicts(name, record, path)
        moments = places.beside(name, ".moments.safetensors")
        if record.moments is None or not path_beside(path, "moments").exists():
            self._unverified(name, record)
        elif self._is_sound(moments):
            for found in check_distances(record, path, self.references):
                if isinstance(found, Breach):
                    yield found
                else:
                    self._remark(name, found)

    def _verdicts(self, name: str, record: RunRecord | EvaluationRecord, path: Path) -> Iterator[Breach]:
        if self._is_sound(places.beside(name, ENDINGS["verdicts"])):
            yield from breaches_of_verdicts(record, path)

    def _unverified(self, name: str, record: RunRecord) -> None:
        """Say of every new run that its distances are not computed again, and count those that are committed."""
        if record.status != "finished" or not any(is_distance(each.name) for each in record.measurements):
            return
        if name in self.committed:
            self.without_moments += 1
        else:
            self._remark(name, "it came without moments: its distances are as recorded, not verified")

    def _is_sound(self, name: str) -> bool:
        """Whether a file may be opened: those of a wrong size or kind are refused unread."""
        return not any(fault.path == name for fault in self.tree.faults)

    def _evaluations(self, withdrawn: dict[str, Withdrawal]) -> Iterator[str]:
        """Check the records of evaluations; returns the files that they name."""
        for found in read_each_evaluation(self.results):
            name = self._name(found.path)
            beside = places.beside(name, ENDINGS["verdicts"])
            if name not in self.files:
                continue
            if name in withdrawn and name in self.committed:
                yield from {beside} & self.committed
                continue
            if isinstance(found, Problem):
                yield beside
                self._unreadable(name, found)
                continue
            if found.record.verdicts is not None:
                yield beside
            self.traits.append(traits_of_evaluation(name, found.record, known=name in self.committed))
            self._readable(name, found.record.provenance, self._breaches_of_evaluation(name, found))

    def _breaches_of_evaluation(self, name: str, found: StoredEvaluation) -> Iterator[Breach]:
        yield from breaches_of_evaluation(found.record, self.now)
        yield from breaches_of_named_run(found.record, self.runs.get(found.record.run_id or "", ()))
        yield from _of_name(found.path, found.record.created, found.record.evaluation_id)
        yield from self._verdicts(name, found.record, found.path)

    def _benches(self) -> None:
        stored, problems = read_benches(self.results)
        for found in stored:
            name = self._name(found.path)
            if name in self.files:
                self.traits.append(traits_of_bench(name, found.record, known=name in self.committed))
                self._readable(name, found.record.provenance, self._breaches_of_bench(found))
        for problem in problems:
            name = self._name(problem.path)
            if name in self.files:
                self._unreadable(name, problem)

    def _breaches_of_bench(self, found: StoredBench) -> Iterator[Breach]:
        yield from breaches_of_bench(found.record.created, found.record.provenance, self.now)
        yield from breaches_of_timing(found.record)
        yield from _of_name(found.path, found.record.created, found.record.digest)

    def _readable(self, name: str, provenance: Provenance, breaches: Iterable[Breach]) -> None:
        """Check a record of another kind than a run's."""
        if self.scope(name) and self._is_plain_json(name):
            self._add(name, breaches)
            self._note(name, provenance)

    def _unreadable(self, name: str, problem: Problem) -> None:
        """Refuse one that cannot be read."""
        if self.scope(name) and self._is_plain_json(name):
            self._add(name, [Breach(problem.rule, problem.reason, AS_MADE)])

    def _published(self) -> None:
        read = {name: self._is_plain_json(name) for name in self.tree.files if name.startswith("published/")}
        newcomers = {self.results / name for name in read if name not in self.committed}
        for path, reason in read_published(self.results, newcomers).problems:
            name = self._name(path)
            if self.scope(name) and read.get(name):
                self._add(name, [Breach("schema", reason, "write down what the source prints, as the others are")])

    def _withdrawals(self) -> dict[str, Withdrawal]:
        """Those that hold, by the record that they withdraw."""
        good, bad = read_withdrawals(self.results)
        for unfit in bad:
            name = self._name(unfit.path)
            if self.scope(name):
                remedy = "`python -m harness withdraw RECORD --reason TEXT` writes a good one"
                self._add(name, [Breach("withdrawal", unfit.reason, remedy)])
        for stored in good:
            name, withdrawal = self._name(stored.path), stored.withdrawal
            if self.scope(name) and self._is_plain_json(name):
                self._add(name, breaches_of_date(withdrawal.created, self.now))
                self._add(name, self._record_of(name, withdrawal))
        return {stored.withdrawal.path: stored.withdrawal for stored in good}

    def _record_of(self, name: str, withdrawal: Withdrawal) -> Iterator[Breach]:
        """Whether what is withdrawn was a result."""
        if name in self.committed:
            return
        if self.history is None or self.history.base is None:
            if withdrawal.path not in self.files:
                self._remark(name, f"{withdrawal.path} is not here, and no history says whether it was")
        elif self.history.sha256_at_base(withdrawal.path) != withdrawal.sha256:
            problem = f"{withdrawal.path} of those bytes was never committed: only a result can be withdrawn"
            yield Breach("withdrawal", problem, "delete both files: nobody has seen them")

    def _history(self, withdrawn: dict[str, Withdrawal]) -> None:
        if self.history is None or self.history.base is None:
            self._remark(".", "no branch to compare with: whether committed results stayed as they were is not checked")
            return
        self.faults += [fault for fault in faults_of_history(self.history, withdrawn) if self.scope(fault.record)]
        for commit in self.history.unknown_commits(self.commits):
            self._remark(self.commits[commit], f"commit {commit[:12]}, which made it, is not in this history")

    def _count_files(self) -> None:
        """A submission is what is not committed yet."""
        if self.history is None or self.history.base is None:
            return
        new = [name for name in self.tree.files if name not in self.committed and self.scope(name)]
        if len(new) > MOST_FILES:
            problem = f"the submission adds {len(new):,} files, and may have {MOST_FILES:,}"
            self.faults.append(Fault(".", "size", problem, "submit it in several parts"))
        total = sum((self.results / name).lstat().st_size for name in new)
        if total > MOST_TOTAL_BYTES:
            problem = f"the submission adds {total:,} bytes, and may have {MOST_TOTAL_BYTES:,}"
            self.faults.append(Fault(".", "size", problem, "submit it in several parts"))

    def _is_plain_json(self, name: str) -> bool:
        """Whether a file other than a run's is JSON without tricks, and its texts are plain; says what is wrong."""
        content = content_of(self.results / name)
        if isinstance(content, Problem):
            self._add(name, [Breach(content.rule, content.reason, AS_MADE)])
            return False
        if problem := strict_json.problem_of(content):
            self._add(name, [Breach("json", problem, AS_MADE)])
            return False
        self._add(name, breaches_of_texts(content))
        return True

    def _note(self, name: str, provenance: Provenance) -> None:
        for words in remarks_of(provenance):
            self._remark(name, words)
        if provenance.commit is not None:
            self.commits.setdefault(provenance.commit, name)

    def _add(self, name: str, breaches: Iterable[Breach]) -> None:
        self.faults += [Fault(name, each.rule, each.problem, each.remedy, name) for each in breaches]

    def _remark(self, name: str, says: str) -> None:
        self.remarks.append(Remark(name, says))

    def _all_remarks(self) -> Iterator[Remark]:
        yield from self.remarks
        if self.without_moments:
            says = f"{self.without_moments} runs came without moments: their distances are as recorded, not verified"
            yield Remark("measured", says)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.results).as_posix()


def _picture_of(stored: Stored) -> bytes | Problem | None:
    """The bytes of a run's picture, or why they are not read; None where its record names none."""
    if stored.record.samples is None:
        return None
    return content_of(stored.path.with_suffix(".png"), pictures.MOST_BYTES)


def _scope(paths: Sequence[Path], results: Path, committed: frozenset[str]) -> Callable[[str], bool]:
    """Which paths below the results are meant: a picture means its record too, a folder all that is in it."""
    if not paths:
        return lambda _: True
    meant = set()
    for path in paths:
        name = _below(path, results)
        if name is None:
            raise UserError(
                f"{path} does not lie below {results}", "name files of the results, and --results their folder"
            )
        was_there = any(each == name or each.startswith(f"{name}/") for each in committed)
        if not os.path.lexists(results / name) and not was_there:
            raise UserError(f"there is no {path}", "name files or folders below the results")
        meant.add(name)
    names = {places.owner_of(name) for name in meant} | meant

    def is_meant(name: str) -> bool:
        inside = any(folder == "." or name.startswith(f"{folder}/") for folder in meant)
        return inside or name in names or places.owner_of(name) in names

    return is_meant


def _below(path: Path, results: Path) -> str | None:
    """A path below the results, as it is spelled or, where links lead there, as it is; None for one elsewhere."""
    spelled = Path(os.path.normpath(path.absolute()))
    whole = Path(os.path.normpath(results.absolute()))
    if spelled.is_relative_to(whole):
        return spelled.relative_to(whole).as_posix()
    # Its last part may itself be a link, which is then what is meant.
    real, whole = spelled.parent.resolve() / spelled.name, whole.resolve()
    return real.relative_to(whole).as_posix() if real.is_relative_to(whole) else None


def _of_name(path: Path, created: datetime, identity: str) -> Iterator[Breach]:
    """Records of all kinds are called after when they were created, and what they are."""
    due = f"{created:%Y%m%dT%H%M%S%fZ}-{identity}"
    if path.stem != due:
        yield Breach("name", f"it is called {path.stem}, and by what it says {due}", "call it that")
