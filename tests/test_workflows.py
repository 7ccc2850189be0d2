"""What the workflows promise: no stranger's code near a right or a secret, and commands that there are.

And the comparison that they post: what a pull request's records change, told in text that can do nothing.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import harness.cli
from harness.contributing.comparison import KINDS, MOST_LINES, compare, main, plain, verdict

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
    assert _events("records") == "pull_request", "a filter of paths does not see the 301st file"
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


def test_a_comparison_that_failed_is_uploaded_too() -> None:
    (upload,) = (step for step in _steps("records") if step.get("uses", "").startswith("actions/upload-artifact"))
    (download,) = (step for step in _steps("comment") if step["uses"].startswith("actions/download-artifact"))
    assert upload["if"] == "always()"
    assert download["continue-on-error"] is True


def test_what_is_pushed_to_main_is_compared_with_what_main_was() -> None:
    pushed, other = (step for step in _job("tests", "records")["steps"] if "harness validate" in step.get("run", ""))
    assert pushed["env"] == {"BASE": "${{ github.event.before }}"}
    assert pushed["run"].endswith('--base "$BASE"')
    assert pushed["if"] == "github.event_name == 'push' && !github.event.created"
    assert other["if"] == "github.event_name != 'push' || github.event.created"


def test_what_judges_results_has_owners() -> None:
    lines = [line.split() for line in (GITHUB / "CODEOWNERS").read_text().splitlines() if line.startswith("/")]
    assert all((ROOT / path.lstrip("/")).exists() for path, _ in lines)
    owned = {path for path, _ in lines}
    assert {f"/harness/{name}.py" for name in ("store", "withdrawals", "moment_files", "recomputing")} <= owned
    assert {"/results/", "/harness/contributing/", "/tests/submissions/", "/harness/record_versions.py"} <= owned


# GitHub's side of the comment's script: what its calls answer, and what it was asked to write.
_GITHUB = """
const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const written = [];
const rest = {
  pulls: {
    list: () => given.open, listFiles: () => given.files, get: async () => ({data: given.pull}),
  },
  issues: {
    listComments: () => given.comments,
    createComment: async told => written.push(['create', told.body]),
    updateComment: async told => written.push([told.comment_id, told.body]),
  },
};
const github = {rest, paginate: async (call, told) => call(told)};
const core = {notice: text => written.push(['notice', text])};
const context = {repo: {}, payload: {workflow_run: given.run}};
const script = Object.getPrototypeOf(async () => {}).constructor('github', 'context', 'core', 'require', given.script);
script(github, context, core, require).then(() => console.log(JSON.stringify(written)));
"""


@dataclass
class Posted:
    """What the comment's script sees, and `post` what it writes: pairs of how, and the text."""

    place: Path
    text: str | None = "1 new file"
    files: tuple[str, ...] = ("results/a.json",)
    changed_files: int | None = None
    comments: tuple[Mapping[str, Any], ...] = ()
    run: Mapping[str, Any] = field(
        default_factory=lambda: {"head_sha": "abc", "head_branch": "b", "head_repository": {"owner": {"login": "me"}}}
    )
    moved_to: str = "abc"

    def post(self) -> list[tuple[Any, str]]:
        if self.text is not None:
            (self.place / "comparison").mkdir()
            (self.place / "comparison/comparison.txt").write_text(self.text)
        changed = len(self.files) if self.changed_files is None else self.changed_files
        given = {
            "script": next(step["with"]["script"] for step in _steps("comment") if "script" in step.get("with", {})),
            "run": self.run,
            "open": [{"number": 7, "head": {"sha": "abc"}}],
            "pull": {"number": 7, "head": {"sha": self.moved_to}, "changed_files": changed},
            "files": [{"filename": name} for name in self.files],
            "comments": self.comments,
        }
        done = subprocess.run(
            ["node", "-e", _GITHUB],
            input=json.dumps(given),
            env={**os.environ, "RUNNER_TEMP": str(self.place)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [(how, told) for how, told in json.loads(done.stdout)]


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="the script of a workflow is JavaScript")


@needs_node
def test_a_comment_shows_what_was_found_between_fences(tmp_path: Path) -> None:
    ((how, body),) = Posted(tmp_path, "two ``` new\u202e files").post()
    assert how == "create"
    assert body.endswith("```text\ntwo " + 3 * "'" + " new? files\n```\n")
    assert "Results at abc" in body


@needs_node
@pytest.mark.parametrize("name", [".github/workflows/records.yml", "harness/contributing/rules.py"])
def test_a_pull_request_that_changes_the_checks_gets_one_sentence(tmp_path: Path, name: str) -> None:
    ((_, body),) = Posted(tmp_path, "all is well", files=("results/a.json", name)).post()
    assert "changes the checks themselves" in body
    assert "all is well" not in body


@needs_node
def test_a_pull_request_with_more_files_than_are_listed_gets_one_sentence(tmp_path: Path) -> None:
    ((_, body),) = Posted(tmp_path, "all is well", files=("README.md",), changed_files=4000).post()
    assert "more files than can be listed" in body
    assert "all is well" not in body


@needs_node
def test_a_pull_request_without_results_gets_no_comment(tmp_path: Path) -> None:
    assert Posted(tmp_path, files=("README.md", ".github/CODEOWNERS")).post() == []


@needs_node
def test_where_there_is_no_comparison_the_comment_says_so(tmp_path: Path) -> None:
    ((_, body),) = Posted(tmp_path, text=None).post()
    assert "There is no comparison: the log" in body


@needs_node
def test_a_comment_takes_the_place_of_its_own_and_of_no_other(tmp_path: Path) -> None:
    mark = "<!-- dsr-bench: comparison -->"
    theirs = (
        {"id": 1, "user": {"login": "evil[bot]", "type": "Bot"}, "body": mark},
        {"id": 2, "user": None, "body": mark},
    )
    ours = {"id": 3, "user": {"login": "github-actions[bot]", "type": "Bot"}, "body": mark}
    ((how, _),) = Posted(tmp_path, comments=(*theirs, ours)).post()
    assert how == 3


@needs_node
def test_a_fork_that_is_gone_and_a_branch_that_moved_on_are_left_alone(tmp_path: Path) -> None:
    gone = Posted(tmp_path, None, run={"head_sha": "abc", "head_branch": "b", "head_repository": None})
    assert gone.post() == [("notice", "The fork is gone.")]
    assert Posted(tmp_path, None, moved_to="def").post() == [("notice", "The pull request moved on meanwhile.")]


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
            with pytest.raises(SystemExit, match="0"):
                main([*own, "--help"])
            place = own.index("--out")
            assert {"--base", "--head", "--verdict"} <= set(own[:place:2]), own
        case "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(re.findall(r"\[(\w+)\]", own[-1])) <= set(extras), own
        case _:
            assert module == "pytest", module


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
    assert main(["--base", str(base), "--head", str(head), "--out", str(head.parent / "out.txt")]) == 0
    assert sorted(head.rglob("*")) == before
    assert victim.read_text() == "precious"
    assert "linked" not in (head.parent / "out.txt").read_text()


def test_a_comparison_that_cannot_be_made_is_told_where_it_would_stand(two: tuple[Path, Path]) -> None:
    base, out = two[0], two[0].parent / "out.txt"
    words = ["--base", str(base), "--head", str(base / "nowhere"), "--out", str(out)]
    assert main([*words, "--verdict", str(base / "no.json")]) == 2
    validated, compared = out.read_text().rstrip().split("\n\n")
    assert "could not be validated" in validated
    assert compared.startswith(f"The results could not be compared:\n{base}/nowhere is no folder with results: name")


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
