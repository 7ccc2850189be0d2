"""The verbs new and check, as a new contributor uses them."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness import contract, registry
from harness.cli import main
from harness.contributing import check
from harness.contributing.new import write_backbone
from harness.records import RunRecord
from harness.spec import Execution, RunConfig
from tests.builders import QUICK

ROOT = Path(__file__).parent.parent
SETS = [word for change in (*QUICK, "sampler.points=3") for word in ("--set", change)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_new_writes_one_file_and_says_what_to_do_with_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "my-net", "--local", "nets/my_net.py"]) == 0
    said = capsys.readouterr().out
    assert "wrote nets/my_net.py" in said
    assert "python -m harness check nets/my_net.py:my-net --quick" in said
    assert "class MyNetTransformer(ClassConditional):" in (here / "nets/my_net.py").read_text()
    assert main(["new", "my-net", "--local", "nets/my_net.py"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("class", "is a word of Python's"),
        ("match", "is a word of Python's"),
        ("sit", "is a backbone of this repository"),
        ("sit-x", "would be taken for"),
        ("rae", "would be taken for"),
        ("layers", "_layers.py exists already"),
        ("Sit", "cannot name a backbone"),
        ("two_words", "cannot name a backbone"),
        ("2fast", "cannot name a backbone"),
        ("../net", "cannot name a backbone"),
        ("n" * 41, "cannot name a backbone"),
        ("none", "none is a preset of registers"),
        ("wide-mlp", "is a preset of registers"),
        ("harness", "is a package of this repository"),
        ("leaderboard", "is a package of this repository"),
    ],
)
def test_new_refuses_what_cannot_be_a_name(name: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", name]) == 2
    assert problem in capsys.readouterr().err


def test_new_refuses_a_file_that_is_no_python(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "my-net", "--local", "my-net"]) == 2
    assert "add --local my-net.py" in capsys.readouterr().err
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("torch.py", "would be imported in place of Python's torch"),
        ("nets/json.py", "choose another file: --local nets/my_json.py"),
        ("/proc/x.py", "/proc"),
        (f"{'n' * 300}.py", "that path is too long"),
    ],
)
def test_new_refuses_a_file_that_cannot_be_or_would_hide_a_module(
    here: Path, file: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "my-net", "--local", file]) == 2
    assert problem in capsys.readouterr().err
    assert not list(here.iterdir())


def test_a_backbone_may_be_called_as_a_package_elsewhere_is(here: Path) -> None:
    """baselines/torch.py hides no torch: it is baselines.torch."""
    assert main(["new", "torch", "--local", "net.py"]) == 0


@pytest.mark.parametrize("name", ["mine", "a" * 20 + "-" + "b" * 19])
def test_what_new_writes_is_kept_as_the_house_is(here: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "pyproject.toml").touch()
    monkeypatch.setattr(registry, "folder", lambda: here / "baselines")
    for file in [*write_backbone(name, None), *write_backbone(name, here / "mine.py")]:
        for words in (["check"], ["format", "--diff"]):
            command = [sys.executable, "-m", "ruff", *words, "--stdin-filename", str(file.relative_to(here)), "-"]
            done = subprocess.run(command, cwd=ROOT, input=file.read_bytes(), capture_output=True, check=False)
            assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_check_tries_a_backbone_and_writes_its_report(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contract, "presets", lambda: ["none", "dsr"])
    write_backbone("mine", here / "mine.py")
    words = ["check", "mine.py:mine", "--registers", "dsr", *SETS, "--threads", "1", "--device", "cpu"]
    assert main([*words, "--out", "check.md"]) == 0
    assert "all 14 promises are kept: check.md" in capsys.readouterr().out
    report = (here / "check.md").read_text()
    assert report.startswith("# Check of the backbone mine: all 14 promises are kept\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines() if line.startswith("|")]
    assert ["registers enter where they should, and leave", "pass", "2 presets", ""] in rows
    assert {row[0] for row in rows} >= {"none", "dsr", "commit", "versions", "machine", "outlier tokens"}
    assert ["", "none", "dsr", "dsr - none"] in rows
    records = sorted((here / "runs/check").rglob("measured/digits/mine/*.json"))
    (distance,) = [row for row in rows if row[0].startswith("fd_digits")]
    plain, ours = (RunRecord.model_validate_json(path.read_bytes()).value("fd_digits") for path in records)
    assert plain is not None
    assert ours is not None
    assert distance[3].startswith(f"{ours - plain:+.4g} ± ")
    assert not (here / "results").exists(), "a rehearsal among the results"
    assert len(records) == 2
    monkeypatch.setattr(check, "OF_AN_ARM", ())
    assert main(words) == 0
    assert sorted((here / "runs/check").rglob("measured/digits/mine/*.json")) == records, "runs were made again"


def test_a_report_that_could_not_be_written_is_refused_before_the_work(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, problem in ((".", "is a folder"), ("/proc/x/report.md", "/proc")):
        assert main(["check", "sitt", "--out", place]) == 2
        assert problem in capsys.readouterr().err
    assert main(["check", "sitt", "--out", "nowhere/report.md"]) == 2
    assert "there is no backbone" in capsys.readouterr().err
    assert not list(here.iterdir()), "a folder was made for a report that is not written"


def test_an_interrupted_check_tries_no_promise_again_that_was_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "presets", lambda: ["none"])
    write_backbone("mine", here / "mine.py")
    words = ["check", "mine.py:mine", "--registers", "none", *SETS, "--threads", "1", "--device", "cpu"]
    tried: list[str] = []

    def what_breaks(promise: contract.Promise, config: RunConfig) -> str | None:
        if len(tried) == 3:
            tried.append("")
            raise KeyboardInterrupt
        tried.append(promise.name)
        return "seen" if promise.name == "time-matters" else None

    monkeypatch.setattr(check, "what_breaks", what_breaks)
    monkeypatch.setattr(check, "OF_AN_ARM", ())
    assert main(words) == 130
    assert main(words) == 1
    first, again = tried[: tried.index("")], tried[tried.index("") + 1 :]
    assert len(first) == 3
    assert not set(first) & set(again)
    assert main(words) == 1
    assert tried[-1] == "time-matters", "what is broken is tried again"
    assert len(tried) == len(contract.OF_A_FAMILY) + 2


@pytest.mark.parametrize(("asked", "steps"), [((), check.REHEARSED_STEPS), (("recipe.steps=7",), 7)])
def test_a_rehearsal_is_short_unless_steps_are_asked_for(
    here: Path, asked: tuple[str, ...], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def run(config: RunConfig) -> None:
        seen.append(config.training_steps)

    monkeypatch.setattr(check, "run", run)
    of_it = check.Asked("sit", (), asked, is_quick=False, execution=Execution(device="cpu"))
    list(check._trained(of_it, ("none", "dsr"), here))
    assert seen == [steps, steps]


def test_check_says_which_promise_is_broken_and_exits_with_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = write_backbone("mine", here / "mine.py")
    file.write_text(file.read_text().replace("self.t_embedder(t_N) + label_ND", "label_ND"))
    assert main(["check", "mine.py:mine", "--quick", "--threads", "1", "--device", "cpu"]) == 1
    report = capsys.readouterr().out
    assert "# Check of the backbone mine: 1 of 14 promises are broken" in report
    assert (
        "| its prediction depends on the time | FAIL | none | none: the prediction is the same at every time |"
        in report
    )
    assert "* its prediction depends on the time: let t reach the blocks" in report
    assert not (here / "runs").exists()


def test_check_of_what_is_not_there_is_misuse(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "mine.py:mine"]) == 2
    assert main(["check", "sitt"]) == 2
    assert main(["check", "sit", "--registers", "none,desner"]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 3
    assert "did you mean" in said
