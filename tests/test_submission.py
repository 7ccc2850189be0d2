"""A result gets onto a branch of its own, checked as CI checks it, and nothing else of the checkout moves."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import attachments
from harness.attachments import path_beside
from harness.cli import main
from harness.contributing import validation
from harness.contributing.branching import find_checkout
from harness.contributing.verdict import Fault, Verdict
from harness.recomputing import recompute
from harness.record_versions import read_record
from harness.records import RunRecord
from harness.run import run
from tests.builders import Said, quick_config

torch.set_num_threads(1)

Submit = Callable[..., Said]


def _git(place: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=place, capture_output=True, text=True, check=True).stdout


def _rewritten(path: Path, **provenance: Any) -> None:
    """The record in this file, as of other code; whether this checkout is dirty now is not what is tested."""
    record = read_record(path.read_bytes())
    changed = record.model_copy(update={"provenance": record.provenance.model_copy(update=provenance)})
    path.write_text(changed.model_dump_json(indent=1) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, RunRecord]]:
    """Two runs that were published, without registers and with some."""
    place = tmp_path_factory.mktemp("made")
    records = {}
    for preset in ("none", "dsr"):
        config = quick_config(place, "sit", preset)
        path = run(config).path
        for file in (path, place / "runs" / config.run_id / "record.json"):
            _rewritten(file, dirty=False)
        records[preset] = read_record(path.read_bytes())
    return place, records


@pytest.fixture
def place(made: tuple[Path, dict[str, RunRecord]], tmp_path: Path) -> Path:
    """A copy of what the runs left."""
    shutil.copytree(made[0], tmp_path / "made")
    return tmp_path / "made"


@pytest.fixture
def ids(made: tuple[Path, dict[str, RunRecord]]) -> dict[str, str]:
    return {preset: record.run_id for preset, record in made[1].items()}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with work in progress: an index that differs, changed and untracked files."""
    root = tmp_path / "clone"
    (root / "results").mkdir(parents=True)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    _git(root, "init", "-q", "-b", "main")
    _git(root, "config", "user.name", "A Person")
    _git(root, "config", "user.email", "person@example.org")
    (root / "results" / "LICENSE").write_text("CC0\n")
    (root / "notes.txt").write_text("one\n")
    _git(root, "add", ".")
    _git(root, "commit", "-qm", "first")
    (root / "notes.txt").write_text("two\n")
    _git(root, "add", "notes.txt")
    (root / "notes.txt").write_text("three\n")
    (root / "untracked.txt").write_text("mine\n")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def submit(place: Path, checkout: Path, capsys: pytest.CaptureFixture[str]) -> Submit:
    """The verb, called in the clone."""

    def call(*words: str) -> Said:
        capsys.readouterr()
        code = main(["submit", *words, "--results", str(place / "results"), "--runs", str(place / "runs")])
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what comes before and after the validation, which takes a second."""
    monkeypatch.setattr(validation, "validate", lambda *_, **__: Verdict((), (), ()))


def _state(root: Path) -> tuple[str, ...]:
    """All of a checkout that a person would see change."""
    files = {str(p.relative_to(root)): p.read_text() for p in root.glob("*.txt")}
    said = (
        _git(root, "status", "--porcelain=v2", "--branch"),
        _git(root, "diff", "--cached"),
        _git(root, "stash", "list"),
    )
    return (*said, (root / ".git/HEAD").read_text(), json.dumps(files), _git(root, "worktree", "list"))


def _on(root: Path, branch: str) -> dict[str, bytes]:
    """What the one commit of a branch adds."""
    assert _git(root, "rev-parse", f"{branch}~1") == _git(root, "rev-parse", "main")
    changed = _git(root, "diff", "--name-status", "--no-renames", "main", branch).splitlines()
    assert all(line.startswith("A\t") for line in changed)
    names = [line.split("\t")[1] for line in changed]
    return {name: _bytes(root, f"{branch}:{name}") for name in names}


def _bytes(root: Path, place: str) -> bytes:
    return subprocess.run(["git", "show", place], cwd=root, capture_output=True, check=True).stdout


def test_records_come_with_all_that_they_name(
    submit: Submit, checkout: Path, place: Path, ids: dict[str, str], made: tuple[Path, dict[str, RunRecord]]
) -> None:
    before = _state(checkout)
    said = submit(ids["dsr"], ids["none"], "--with-moments")
    assert (said.code, said.err) == (0, "")
    assert _state(checkout) == before
    branch = f"results/sit-dsr-{ids['dsr']}"
    files = _on(checkout, branch)
    assert len(files) == 2 * 4
    for record in made[1].values():
        (name,) = [name for name in files if name.endswith(f"{record.run_id}.json")]
        assert name.startswith("results/measured/digits/sit/")
        assert read_record(files[name]) == record
        assert record.samples is not None
        picture = files[str(Path(name).with_name(record.samples.file))]
        assert hashlib.sha256(picture).hexdigest() == record.samples.sha256
        assert attachments.attachment_of(files[str(path_beside(Path(name), "norms"))]) == record.norm_maps
        moments = place / "moments.safetensors"
        moments.write_bytes(files[str(path_beside(Path(name), "moments"))])
        ((measurement, value),) = recompute(record, moments, place).values
        assert value == pytest.approx(measurement.value, rel=1e-9)
    assert all(mode == "100644" for mode in _modes(checkout, branch))
    assert f"git push -u origin {branch}" in said.out
    assert "result.md" in said.out
    assert "note     .:" not in said.out, "what validate remarks on the whole is none of the submission's"


def _modes(root: Path, branch: str) -> set[str]:
    return {line.split()[0] for line in _git(root, "ls-tree", "-r", branch).splitlines()}


@pytest.mark.usefixtures("unchecked")
def test_the_commit_says_what_it_shows(
    submit: Submit, checkout: Path, ids: dict[str, str], made: tuple[Path, dict[str, RunRecord]]
) -> None:
    assert submit(ids["dsr"], ids["none"], "--branch", "both").code == 0
    message = _git(checkout, "log", "-1", "--format=%B", "both")
    none, dsr = (made[1][preset].value("fd_digits") for preset in ("none", "dsr"))
    assert none is not None
    assert dsr is not None
    assert message.startswith("Results: 2 runs on digits\n")
    assert f"{ids['dsr']} sit-tiny, dsr on digits, seed 0: fd_digits {dsr:.4g}, {dsr - none:+.4g} to none" in message
    assert f"{ids['none']} sit-tiny, none on digits, seed 0: fd_digits {none:.4g}\n" in message
    assert _git(checkout, "log", "-1", "--format=%an", "both") == "A Person\n"


@pytest.mark.usefixtures("unchecked")
def test_a_run_that_was_never_published_is_taken_from_its_workspace(
    submit: Submit, checkout: Path, place: Path, ids: dict[str, str]
) -> None:
    wanted = submit(ids["none"], "--branch", "published")
    files = _on(checkout, "published")
    shutil.rmtree(place / "results")
    found = submit(ids["none"], "--branch", "kept")
    assert (wanted.code, found.code) == (0, 0)
    assert _on(checkout, "kept") == files


@pytest.mark.usefixtures("unchecked")
def test_without_moments_the_record_still_names_them(submit: Submit, checkout: Path, ids: dict[str, str]) -> None:
    said = submit(ids["none"], "--without-moments", "--branch", "bare")
    files = _on(checkout, "bare")
    assert not [name for name in files if "moments" in name]
    assert len(files) == 3
    assert "without moments" in said.out
    (record,) = [read_record(content) for name, content in files.items() if name.endswith(".json")]
    assert record.moments is not None


@pytest.mark.usefixtures("unchecked")
def test_moments_that_are_gone_are_missed_where_they_were_asked_for(
    submit: Submit, checkout: Path, place: Path, ids: dict[str, str]
) -> None:
    (place / "runs" / ids["none"] / "moments.safetensors").unlink()
    refused = submit(ids["none"], "--with-moments")
    assert (refused.code, "moments.safetensors is missing" in refused.err) == (2, True)
    said = submit(ids["none"], "--branch", "bare")
    assert (said.code, "moments.safetensors is missing" in said.out) == (0, True)


@pytest.mark.usefixtures("unchecked")
def test_moments_over_the_limit_are_named(
    submit: Submit, checkout: Path, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(attachments.MOST_BYTES, "moments", 1000)
    said = submit(ids["none"])
    assert said.code == 2
    assert "digits, pooled features: 0.0 MiB" in said.err
    assert "--without-moments" in said.err
    assert submit(ids["none"], "--without-moments").code == 0


@pytest.mark.usefixtures("unchecked")
def test_a_missing_matched_run_is_named_with_the_command_that_makes_it(
    submit: Submit, checkout: Path, place: Path, ids: dict[str, str]
) -> None:
    here = submit(ids["dsr"], "--branch", "here")
    assert f"submit {ids['none']} too" in here.out
    shutil.rmtree(place / "runs" / ids["none"])
    (record,) = (place / "results").rglob(f"*{ids['none']}.json")
    record.unlink()
    gone = submit(ids["dsr"], "--branch", "gone")
    (line,) = [line for line in gone.out.splitlines() if "the matched run without registers is missing" in line]
    assert "python -m harness run --backbone sit --registers none --seed 0" in line
    assert "recipe.steps=6" in line


@pytest.mark.usefixtures("unchecked")
def test_the_matched_run_may_be_on_the_branch_already(submit: Submit, checkout: Path, ids: dict[str, str]) -> None:
    assert submit(ids["none"], "--branch", "none").code == 0
    _git(checkout, "update-ref", "refs/heads/main", "none")
    said = submit(ids["dsr"])
    assert said.code == 0
    assert "is missing" not in said.out
    assert "to none" in said.out


def _unknown(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    return [ids["none"][:-1] + "x"]


def _shortened(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    return [ids["none"][:4]]


def _path(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    return [f"../runs/{ids['none']}"]


def _branch_is_there(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    _git(checkout, "branch", "mine")
    return [ids["none"], "--branch", "mine"]


def _branch_is_none(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    return [ids["none"], "--branch", "a..b"]


def _branch_is_a_flag(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    return [ids["none"], "--branch=--all"]


def _branch_in_the_way(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    _git(checkout, "branch", "results")
    return [ids["none"]]


def _dirty(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    (record,) = (place / "results").rglob(f"*{ids['none']}.json")
    _rewritten(record, dirty=True)
    return [ids["none"]]


def _withdrawn(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    (record,) = (place / "results").rglob(f"*{ids['none']}.json")
    assert main(["withdraw", str(record), "--reason", "the seed was wrong", "--results", str(place / "results")]) == 0
    return [ids["none"]]


def _damaged(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    (record,) = (place / "results").rglob(f"*{ids['none']}.json")
    record.write_text("{}")
    return [ids["none"]]


def _no_picture(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    for picture in (*(place / "results").rglob("*.png"), *(place / "runs").rglob("*.png")):
        picture.write_bytes(b"another")
    return [ids["none"]]


def _no_norm_maps(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    for file in (*place.rglob("*norms.safetensors"), *place.rglob("norm-maps.safetensors")):
        file.unlink()
    return [ids["none"]]


def _no_checkout(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    shutil.rmtree(checkout / ".git")
    return [ids["none"]]


def _another_project(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    _git(checkout, "rm", "-rq", "results")
    _git(checkout, "commit", "-qm", "away")
    return [ids["none"]]


def _nothing_committed(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    shutil.rmtree(checkout / ".git")
    _git(checkout, "init", "-q")
    return [ids["none"]]


def _nobody(checkout: Path, place: Path, ids: dict[str, str]) -> list[str]:
    _git(checkout, "config", "user.useConfigOnly", "true")
    _git(checkout, "config", "--unset", "user.name")
    _git(checkout, "config", "--unset", "user.email")
    return [ids["none"]]


REFUSED: dict[Callable[..., list[str]], str] = {
    _unknown: "did you mean",
    _shortened: "did you mean",
    _path: "there is no run",
    _branch_is_there: "there is a branch mine already",
    _branch_is_none: "git allows no branch",
    _branch_is_a_flag: "git allows no branch",
    _branch_in_the_way: "git makes no branch",
    _dirty: "add --dirty",
    _withdrawn: "was withdrawn",
    _damaged: "no valid record",
    _no_picture: "the sample grid of run",
    _no_norm_maps: "norm-maps.safetensors is missing",
    _no_checkout: "is in no git checkout",
    _another_project: "has no results/",
    _nothing_committed: "nothing was ever committed",
    _nobody: "git does not know who you are",
}


@pytest.mark.parametrize("prepare", REFUSED, ids=lambda prepare: prepare.__name__.lstrip("_"))
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_submitted_is_refused_and_leaves_nothing(
    prepare: Callable[..., list[str]], submit: Submit, checkout: Path, place: Path, ids: dict[str, str]
) -> None:
    words = prepare(checkout, place, ids)
    is_checkout = (checkout / ".git").exists()
    branches = _git(checkout, "branch", "--list") if is_checkout else ""
    said = submit(*words)
    assert said.code == 2
    assert REFUSED[prepare] in said.err
    assert (_git(checkout, "branch", "--list") if is_checkout else "") == branches


@pytest.mark.usefixtures("unchecked")
def test_what_was_submitted_once_is_not_submitted_again(submit: Submit, checkout: Path, ids: dict[str, str]) -> None:
    branch = f"results/sit-none-{ids['none']}"
    assert submit(ids["none"]).code == 0
    tip = _git(checkout, "rev-parse", branch)
    again = submit(ids["none"])
    assert (again.code, f"is on {branch} already" in again.err) == (2, True)
    assert _git(checkout, "rev-parse", branch) == tip
    _git(checkout, "update-ref", "refs/heads/main", branch)
    merged = submit(ids["none"], "--branch", "another")
    assert (merged.code, "is on main already" in merged.err) == (2, True)


@pytest.mark.usefixtures("unchecked")
def test_code_with_uncommitted_changes_is_allowed_and_said_aloud(
    submit: Submit, checkout: Path, place: Path, ids: dict[str, str]
) -> None:
    said = submit(*_dirty(checkout, place, ids), "--dirty")
    assert said.code == 0
    assert "WAS MADE BY CODE WITH UNCOMMITTED CHANGES" in said.out


def test_what_validate_refuses_is_not_put_on_a_branch(
    submit: Submit, checkout: Path, place: Path, ids: dict[str, str]
) -> None:
    (record,) = (place / "results").rglob(f"*{ids['none']}.json")
    told = json.loads(record.read_text())
    for measurement in told["measurements"]:
        if measurement["name"] == "fd_digits":
            measurement["value"] /= 2
    record.write_text(json.dumps(told))
    said = submit(ids["none"])
    assert said.code == 2
    assert "`validate` refuses" in said.err
    assert "fd_digits" in said.err
    assert _git(checkout, "branch", "--list") == "* main\n"


def test_every_fault_is_told(
    submit: Submit, checkout: Path, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Path]] = []

    def refuses(paths: list[Path], results: Path, **_: Any) -> Verdict:
        assert (results / "LICENSE").read_text() == "CC0\n", "what is committed lies beside it"
        assert all(path.is_file() and path.is_relative_to(results) for path in paths)
        seen.append(paths)
        return Verdict(
            [Fault("a.json", "place", "too long", "shorten it"), Fault("b.png", "size", "odd", "mend")], (), ()
        )

    monkeypatch.setattr(validation, "validate", refuses)
    said = submit(ids["none"], "--with-moments")
    assert "a.json: too long: shorten it" in said.err
    assert "b.png: odd: mend" in said.err
    assert len(seen[0]) == 4
    assert not seen[0][0].exists(), "what was staged is gone"


@pytest.mark.parametrize("step", ["read-tree", "update-index", "write-tree", "commit-tree", "update-ref"])
@pytest.mark.usefixtures("unchecked")
def test_an_interruption_leaves_no_branch(
    step: str, submit: Submit, checkout: Path, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.contributing import branching

    real = branching._git

    def stops(place: Path, *words: str, **given: Any) -> Any:
        if words[0] == step:
            raise KeyboardInterrupt
        return real(place, *words, **given)

    before = _state(checkout)
    with monkeypatch.context() as patched:
        patched.setattr(branching, "_git", stops)
        assert submit(ids["none"]).code == 130
    assert _git(checkout, "branch", "--list") == "* main\n"
    assert _state(checkout) == before
    assert submit(ids["none"]).code == 0


@pytest.mark.usefixtures("unchecked")
def test_a_branch_starts_from_main_and_not_from_other_work(submit: Submit, checkout: Path, ids: dict[str, str]) -> None:
    _git(checkout, "checkout", "-qb", "feature")
    _git(checkout, "commit", "-qam", "unfinished")
    assert submit(ids["none"], "--branch", "mine").code == 0
    assert len(_on(checkout, "mine")) == 4
    _git(checkout, "branch", "-m", "main", "trunk")
    assert find_checkout(checkout).start == "HEAD"


@pytest.mark.usefixtures("unchecked")
def test_copies_that_git_does_not_know_are_named(
    submit: Submit, checkout: Path, place: Path, ids: dict[str, str]
) -> None:
    """Git does not pull over a file that it does not know, were it the same."""
    shutil.copytree(place / "results", checkout / "results", dirs_exist_ok=True)
    said = submit(ids["none"])
    (line,) = [line for line in said.out.splitlines() if "before you pull" in line]
    branch = f"results/sit-none-{ids['none']}"
    copies = [path for path in _on(checkout, branch) if (checkout / path).exists()]
    others = list((checkout / "results").rglob(f"*{ids['dsr']}*"))
    assert len(copies) == len(others) == 3, "the moments lie in the workspace"
    subprocess.run(["bash", "-c", line.partition("copies: ")[2]], cwd=checkout, check=True)
    assert not [path for path in copies if (checkout / path).exists()]
    assert all(path.exists() for path in others)
    assert (checkout / "untracked.txt").exists()
    _git(checkout, "merge", "--quiet", "--ff-only", branch)
    subprocess.run(["bash", "-c", line.partition("copies: ")[2]], cwd=checkout, check=True)
    assert all((checkout / path).exists() for path in copies), "what git knows stays"


@pytest.mark.usefixtures("unchecked")
def test_a_submission_may_be_called_from_below_and_fetched_by_others(
    submit: Submit, checkout: Path, tmp_path: Path, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _git(tmp_path, "clone", "-q", "--bare", str(checkout), "fork.git")
    _git(checkout, "remote", "add", "origin", str(tmp_path / "fork.git"))
    monkeypatch.chdir(checkout / "results")
    assert submit(ids["none"], "--branch", "mine").code == 0
    _git(checkout, "push", "-q", "-u", "origin", "mine")
    _git(tmp_path, "clone", "-q", "-b", "mine", str(tmp_path / "fork.git"), "reviewer")
    assert list((tmp_path / "reviewer" / "results").rglob(f"*{ids['none']}.json"))


def test_withdraw_says_what_to_commit(place: Path, ids: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = (place / "results").rglob(f"*{ids['none']}.json")
    before = record.read_bytes()
    words = ["withdraw", str(record), "--results", str(place / "results"), "--reason"]
    assert main([*words, "the learning rate was not the recipe's"]) == 0
    tombstone = place / "results" / "withdrawn" / record.name
    assert f"git add {tombstone}" in capsys.readouterr().out
    assert "learning rate" in tombstone.read_text()
    assert record.read_bytes() == before
    assert main([*words, "once more, with another reason"]) == 2


def _withdraw(place: Path, named: str, results: str = "results") -> int:
    return main(["withdraw", named, "--results", str(place / results), "--reason", "the learning rate was wrong"])


def test_a_record_is_withdrawn_by_the_id_of_its_run(
    place: Path, ids: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (record,) = (place / "results").rglob(f"*{ids['none']}.json")
    assert _withdraw(place, ids["none"][:-1] + "x") == 2
    assert f"did you mean {ids['none']}?" in capsys.readouterr().err
    second = record.with_name(f"20990101T000000000000Z-{ids['none']}.json")
    shutil.copy(record, second)
    assert _withdraw(place, ids["none"]) == 2
    assert f"has 2 records\n  -> name the file of one: {record}, {second}" in capsys.readouterr().err
    second.unlink()
    assert _withdraw(place, ids["none"]) == 0
    assert (place / "results" / "withdrawn" / record.name).is_file()


def test_a_record_that_nobody_else_has_is_deleted_and_not_withdrawn(
    place: Path, checkout: Path, ids: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "results" / "measured", checkout / "results" / "measured")
    (record,) = (checkout / "results").rglob(f"*{ids['none']}.json")
    assert _withdraw(checkout, ids["none"]) == 2
    said = capsys.readouterr().err
    assert "was never merged" in said
    assert not (checkout / "results" / "withdrawn").exists()
    _git(checkout, "add", "results")
    _git(checkout, "commit", "-qm", "merged")
    assert _withdraw(checkout, str(record)) == 0
    (remedy,) = re.findall(r"rm .*", said)
    subprocess.run(["bash", "-c", remedy], cwd=checkout, check=True)
    assert not list((checkout / "results" / "measured").rglob(f"*{ids['none']}*"))
    assert list((checkout / "results" / "measured").rglob(f"*{ids['dsr']}*"))
