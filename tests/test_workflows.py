"""What the workflows promise: no stranger's code near a right or a secret, and commands that there are.

And the comparison that they post: what a pull request's records change, told in text that can do nothing.
"""

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import harness.cli
from harness.contributing.comparison import KINDS, MOST_LINES, compare, main, plain, verdict
from harness.errors import UserError

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((GITHUB / "workflows").glob("*.yml"))}
JOBS = [(name, job) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"]]
RESULTS = ROOT / "results"
WRITERS = {("comment", "comment"): {"actions", "pull-requests"}, ("docs", "deploy"): {"pages", "id-token"}}
SHELL = {"mkdir", "code=0", "echo", "cat", "exit", "sudo"}


def _job(workflow: str, job: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = WORKFLOWS[workflow]["jobs"][job]
    return found


def _steps(workflow: str) -> Iterator[Mapping[str, Any]]:
    for job in WORKFLOWS[workflow]["jobs"].values():
        yield from job["steps"]


def _events(workflow: str) -> Any:
    # YAML 1.1 takes the word "on" for true.
    return WORKFLOWS[workflow][True]


def test_there_are_the_workflows() -> None:
    assert set(WORKFLOWS) == {"tests", "records", "comment", "docs"}


@pytest.mark.parametrize(("workflow", "job"), JOBS)
def test_a_job_has_no_more_rights_than_it_needs(workflow: str, job: str) -> None:
    given = _job(workflow, job).get("permissions", WORKFLOWS[workflow]["permissions"])
    if (workflow, job) in WRITERS:
        assert set(given) == WRITERS[workflow, job]
        assert not [s for s in _job(workflow, job)["steps"] if "run" in s or "checkout" in s["uses"]], "runs no code"
    else:
        assert given == {"contents": "read"}
    assert WORKFLOWS[workflow]["permissions"] in ({}, {"contents": "read"})
    assert 0 < _job(workflow, job)["timeout-minutes"] <= 60


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_no_strangers_code_meets_a_secret(workflow: str) -> None:
    text = (GITHUB / "workflows" / f"{workflow}.yml").read_text()
    assert "pull_request_target" not in text
    assert "secrets" not in re.sub(r"#.*", "", text)
    assert "concurrency" in WORKFLOWS[workflow]
    if workflow != "comment":
        assert "github.token" not in text


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_actions_have_a_version_and_a_checkout_keeps_no_token(workflow: str) -> None:
    for step in _steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]), step["uses"]
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_nothing_that_a_stranger_wrote_stands_in_a_shell_or_a_script(workflow: str) -> None:
    """An expression is put into a script before the shell reads it: a branch's name could be a command."""
    for step in _steps(workflow):
        for text in (step.get("run", ""), step.get("with", {}).get("script", "")):
            assert "${{" not in text, text


def test_records_are_read_by_the_code_of_the_base_alone() -> None:
    assert set(_events("records")) == {"pull_request"}
    base, head = (s["with"] for s in _steps("records") if s.get("uses", "").startswith("actions/checkout"))
    assert (base["path"], head["path"]) == ("base", "head")
    assert base["ref"] == "${{ github.event.pull_request.base.sha }}"
    for step in _steps("records"):
        assert "head/" not in step.get("working-directory", "")
        if "python" in step.get("run", ""):
            assert step["working-directory"] == "base", "python -m would import what lies where it stands"
            assert "install -e ../head" not in step["run"]


def test_the_comment_follows_the_records_and_shows_a_text_that_can_do_nothing() -> None:
    assert _events("comment") == {"workflow_run": {"workflows": ["records"], "types": ["completed"]}}
    (script,) = (step["with"]["script"] for step in _steps("comment") if "github-script" in step["uses"])
    assert "replaceAll('`', \"'\")" in script, "the text could close the fence around it"
    assert "stat.size" in script
    assert "isFile()" in script
    assert "run.head_sha" in script, "which pull request it is may not come from the artifact"
    assert "JSON.parse" not in script


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_shell_lines_are_commands_that_there_are(workflow: str) -> None:
    for step in _steps(workflow):
        for line in step.get("run", "").splitlines():
            words = shlex.split(line.replace('"$(command -v python)"', "python"))
            if words[0] == "sudo":
                words = words[3:]
            if words[:2] == ["python", "-m"]:
                _require_module(words[2], words[3:])
            else:
                assert words[0] in SHELL or shutil.which(words[0]), line


def _require_module(module: str, words: list[str]) -> None:
    """Whether `python -m MODULE WORDS` is something; of ours, whether the words are understood."""
    own = words[: words.index(">")] if ">" in words else words
    match module:
        case "harness":
            harness.cli._parser().parse_args(own)
        case "harness.contributing.comparison":
            with pytest.raises(UserError, match="is no folder with results"):
                main([word.replace("../", "/nowhere/") for word in own if word not in _verdict_of(own)])
        case "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(re.findall(r"\[(\w+)\]", own[-1])) <= set(extras), own
        case _:
            assert module == "pytest", module


def _verdict_of(words: list[str]) -> list[str]:
    place = words.index("--verdict")
    return words[place : place + 2]


@pytest.mark.parametrize("form", sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda form: form.stem)
def test_an_issue_form_asks_for_something(form: Path) -> None:
    asked = yaml.safe_load(form.read_text())
    if form.stem == "config":
        assert asked == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= set(asked)
    ids = [each["id"] for each in asked["body"]]
    assert len(set(ids)) == len(ids) > 0
    assert all(each["attributes"].get("label") or each["attributes"].get("options") for each in asked["body"])


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """The committed results of one backbone without its newest record, and with it."""
    for side in ("base", "head"):
        shutil.copytree(RESULTS / "measured" / "digits" / "pdit", tmp_path / side / "measured" / "digits" / "pdit")
    newest = max((tmp_path / "base").rglob("*.json"), key=lambda path: path.name)
    for file in newest.parent.glob(f"{newest.stem}*"):
        file.unlink()
    return tmp_path / "base", tmp_path / "head"


def _newest(results: Path) -> Path:
    return max(results.rglob("*.json"), key=lambda path: path.name)


def test_a_comparison_names_what_is_new_and_the_arms_that_it_moves(two: tuple[Path, Path]) -> None:
    base, head = two
    record = json.loads(_newest(head).read_text())
    said = compare(base, head)
    added = [path for path in head.rglob("*") if path.suffix in KINDS and not (base / path.relative_to(head)).exists()]
    assert said.startswith(f"{len(added)} new files, 0 changed, 0 gone;")
    assert _newest(head).relative_to(head).as_posix() in said
    (row,) = [line for line in said.splitlines() if line.startswith("pdit-tiny")]
    value = next(m["value"] for m in record["measurements"] if m["name"] == "fd_digits")
    assert f"{value:.4g}" in row
    assert record["config"]["registers"]["preset"] in row


def test_a_comparison_of_equal_results_tells_of_no_arm(two: tuple[Path, Path]) -> None:
    said = compare(two[1], two[1])
    assert said.startswith("0 new files, 0 changed, 0 gone;")
    assert "pdit-tiny" not in said


def test_a_comparison_names_what_was_changed_deleted_or_cannot_be_read(two: tuple[Path, Path]) -> None:
    base, head = two
    gone = _newest(base).relative_to(base)
    (head / gone).unlink()
    changed = _newest(head)
    changed.write_text("{}")
    (base / changed.relative_to(head)).write_text("[]")
    said = compare(base, head)
    assert f"Gone:\n{gone.as_posix()}" in said
    assert f"Changed:\n{changed.relative_to(head).as_posix()}" in said


def test_a_comparison_writes_nowhere_but_to_its_file_and_follows_no_link(two: tuple[Path, Path]) -> None:
    base, head = two
    victim = head.parent / "victim"
    victim.write_text("precious")
    (head / ".leaderboard.duckdb.lock").symlink_to(victim)
    (head / "measured" / "linked.json").symlink_to(victim)
    before = sorted(head.rglob("*"))
    main(["--base", str(base), "--head", str(head), "--out", str(head.parent / "out.txt")])
    assert sorted(head.rglob("*")) == before
    assert victim.read_text() == "precious"
    assert "linked" not in (head.parent / "out.txt").read_text()


def test_text_of_strangers_is_one_short_line_without_anything_that_hides() -> None:
    assert plain("a\nb\x1b[31m\u202ec\u200b") == "a?b?[31m?c?"
    assert len(plain("x" * 10_000)) == 80


def test_a_verdict_is_told_in_sentences_and_cut_where_it_is_endless(tmp_path: Path) -> None:
    file, head = tmp_path / "verdict.json", tmp_path / "results"
    fault = {"path": f"{head}/a\n.json", "rule": "size", "problem": "too large", "remedy": "make it smaller"}
    file.write_text(json.dumps({"faults": [fault] * 99, "remarks": [{"path": "b", "says": "unchecked"}]}))
    faults, remarks = verdict(file, head)
    assert faults.splitlines()[:2] == ["Refused, for 99 faults:", "a?.json: too large: make it smaller"]
    assert faults.splitlines()[-1] == f"... and {99 - MOST_LINES} more"
    assert remarks == "Remarks:\nb: unchecked"
    file.write_text('{"faults": [], "remarks": []}')
    assert verdict(file, head) == ["Every file passes the checks."]
    file.write_text("Traceback")
    assert "could not be validated" in verdict(file, head)[0]
