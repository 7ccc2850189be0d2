"""What the documentation says is true: every command in it is executed, and the site is built without a warning.

Each page is one session in a scratch checkout of its own, its fenced `sh` commands run in their order.  Before a block
`<!-- expect: 2 WORDS -->` says that its commands end with 2 here, for want of images, weights or Slurm, and with which
words (`A | B` gives each command its own); `<!-- file: NAME -->` says that the block is that file.  Commands that train
are made tiny.  A command that nothing here can execute fails the test.
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import baselines
import harness.cli
from tests.builders import QUICK, image_folder, quick_changes

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HARNESS = ["python", "-m", "harness"]
LANGUAGES = ("", "sh", "python", "toml")
MISUSE = "--help` shows what can be said"
MARK = re.compile(r"<!-- (expect|file): (.*) -->")
SPAN = re.compile(r"`(python -m harness [^`]+)`")


@dataclass(frozen=True)
class Step:
    """A command with the exit code and the words that are promised, or a file with its text."""

    line: str
    code: int = 0
    words: str = ""
    text: str | None = None


def steps_of(markdown: str) -> Iterator[Step]:
    """The commands of a page, and the files that it shows, in their order."""
    marks: dict[str, str] = {}
    lines = iter(markdown.splitlines())
    for line in lines:
        mark = MARK.fullmatch(line)
        if mark is not None:
            marks[mark[1]] = mark[2]
        elif line.startswith("```"):
            assert line[3:] in LANGUAGES, f"{line}: commands stand in `sh` blocks, where they are executed"
            block = list(iter(lambda: next(lines), "```"))
            if "file" in marks:
                yield Step(marks["file"], text="\n".join(block) + "\n")
            elif line == "```sh":
                yield from _commands(block, marks.get("expect", "0"))
            marks = {}


def _commands(block: Sequence[str], expected: str) -> Iterator[Step]:
    code, _, said = expected.partition(" ")
    lines = [part for line in block if line.strip() for part in line.split(" && ")]
    words = said.split(" | ")
    assert len(words) in (1, len(lines)), f"{len(words)} words for {len(lines)} commands"
    for index, line in enumerate(lines):
        yield Step(line.strip(), int(code), words[index % len(words)])


class Session:
    """A scratch checkout with its remote, images and published figures, in which a page's commands are typed."""

    def __init__(self, place: Path) -> None:
        self.checkout, self.images = place / "checkout", image_folder(place / "images")
        self.checkout.mkdir()
        (self.checkout / "baselines").mkdir()
        for folder in ("published", "measured/digits/pdit"):
            shutil.copytree(ROOT / "results" / folder, self.checkout / "results" / folder)
        for name in ("pyproject.toml", ".gitignore", "README.md"):
            shutil.copy(ROOT / name, self.checkout / name)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("init", "--quiet", "--bare", str(place / "origin.git"))
        self.git("remote", "add", "origin", str(place / "origin.git"))
        for setting in ("user.name=A Reader", "user.email=reader@example.org"):
            self.git("config", *setting.split("=", 1))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A checkout")

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.checkout, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"git {shlex.join(words)}: {done.stderr}"
        return done.stdout

    def filled(self, word: str) -> str:
        """The word with its placeholder filled in."""
        places: Mapping[str, Callable[[], str]] = {
            "DIR": lambda: str(self.images),
            "RUN_ID": lambda: self._newest().stem.rpartition("-")[2],
            "RECORD": lambda: self.git("ls-files", "results/measured/*.json").split()[-1],
            "BRANCH": lambda: self.git("for-each-ref", "--format=%(refname:short)", "refs/heads/results").split()[-1],
        }
        return places[word]() if word in places else word

    def _newest(self) -> Path:
        records = sorted((self.checkout / "results" / "measured").rglob("*.json"), key=lambda path: path.name)
        assert records, "the page has run nothing yet"
        return records[-1]


def _harness(session: Session, words: Sequence[str]) -> tuple[int, str]:
    """The command line in this process, made small."""
    verb, *rest = words
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = harness.cli.main([verb, *SMALLER.get(verb, _as_it_is)(rest)])
    return code, said.getvalue()


def _as_it_is(words: list[str]) -> list[str]:
    return words


def _value(words: Sequence[str], flag: str) -> str:
    return words[words.index(flag) + 1] if flag in words else ""


def _sets(changes: Sequence[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def _small_run(words: list[str]) -> list[str]:
    prompts = ("protocol.num_images=76",) if _value(words, "--task") == "shapes-t2i" else ()
    changes = (*quick_changes(_value(words, "--backbone")), *prompts)
    return words if "--dry-run" in words else [*words, "--threads", "1", "--device", "cpu", *_sets(changes)]


def _small_sweep(words: list[str]) -> list[str]:
    """Here, without processes of its own, and as small as a run; what is for Slurm goes there unchanged."""
    if words[0] in ("status", "resume", "cancel") or "--dry-run" in words or "slurm" in words:
        return words
    if "--workers" in words:
        del words[words.index("--workers") : words.index("--workers") + 2]
    return [*words, "--launcher", "debug", "--threads", "1", "--device", "cpu", *_sets((*QUICK, "sampler.points=3"))]


def _small_check(words: list[str]) -> list[str]:
    return [*words, "--quick", "--threads", "1", "--device", "cpu", *_sets(quick_changes("mine"))]


SMALLER: Mapping[str, Callable[[list[str]], list[str]]] = {
    "run": _small_run,
    "sweep": _small_sweep,
    "check": _small_check,
    "submit": lambda words: [*words, "--dirty"],  # who runs this has changed the code and not committed it
    "probe": lambda words: [*words, "--images", "20", "--threads", "1", "--device", "cpu"],
    "bench": lambda words: [
        *words,
        "--batch",
        "1",
        "--threads",
        "1",
        *_sets(("network.depth=1", "network.width=32", "network.num_heads=2")),
    ],
}


def _really(session: Session, words: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(words, cwd=session.checkout, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def _in_one_process(session: Session, words: Sequence[str]) -> tuple[int, str]:
    """What torchrun starts in each of its processes; tests/test_distributed.py starts several."""
    return _harness(session, words[words.index("harness") + 1 :])


def _installed(session: Session, words: Sequence[str]) -> tuple[int, str]:
    """pip: .ci/run installs by the README's own lines; here the extra that is asked for must be one."""
    asked = re.findall(r"\[(\w+)\]", words[-1])
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(asked) <= set(extras), f"{asked} is no extra of pyproject.toml"
    return 0, ""


def _pytest_of(config: pytest.Config) -> Callable[[Session, Sequence[str]], tuple[int, str]]:
    def told(session: Session, words: Sequence[str]) -> tuple[int, str]:
        """pytest: this is it; its files must be there, and its long flags known."""
        for word in words[3:]:
            if word.startswith("tests/"):
                assert (ROOT / word).is_file(), word
            elif word.startswith("--"):
                config.getoption(word.partition("=")[0])
        return 0, ""

    return told


def _proven(session: Session, words: Sequence[str]) -> tuple[int, str]:
    """.ci/run: what starts the tests; it must be there, and be a script."""
    assert subprocess.run(["bash", "-n", str(ROOT / words[-1])], check=False).returncode == 0
    return 0, ""


def _site(session: Session, words: Sequence[str]) -> tuple[int, str]:
    """mkdocs: built below, by `test_the_site_is_built_without_a_warning`."""
    assert words[1:] == ["build", "--strict"]
    return 0, ""


@pytest.fixture
def ways(request: pytest.FixtureRequest) -> Mapping[tuple[str, ...], Any]:
    """How each command is executed, by its first words."""
    return {
        tuple(HARNESS): lambda session, words: _harness(session, words[3:]),
        ("torchrun",): _in_one_process,
        ("git",): _really,
        ("pre-commit", "install"): _really,
        ("python", "-m", "pip", "install"): _installed,
        ("python", "-m", "pytest"): _pytest_of(request.config),
        ("bash", ".ci/run"): _proven,
        ("mkdocs",): _site,
    }


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A checkout to type in, on a machine without Slurm, network or browser."""
    found, which = Session(tmp_path), shutil.which
    monkeypatch.chdir(found.checkout)
    monkeypatch.setattr(baselines, "__path__", [str(found.checkout / "baselines"), *baselines.__path__])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(shutil, "which", lambda name, *more: None if name in ("sbatch", "srun") else which(name, *more))
    # The board is opened in tests/test_board_browser.py; here it stops where its server would start.
    monkeypatch.setattr("harness.board.subprocess.call", lambda command: 0 if "streamlit" in command else 1)
    monkeypatch.setattr(sys, "argv", ["harness", *sys.argv[1:]])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_does_what_the_page_says(page: Path, session: Session, ways: Mapping[Any, Any]) -> None:
    for step in steps_of(page.read_text()):
        if step.text is not None:
            (session.checkout / step.line).write_text(step.text)
            continue
        words = [session.filled(word) for word in shlex.split(step.line, comments=True)]
        code, said = _way(ways, words)(session, words)
        assert code == step.code, f"{page.name}: {step.line}\nended with {code}:\n{said[-2000:]}"
        assert step.words in said, f"{page.name}: {step.line}\nsays nothing of {step.words!r}:\n{said[-2000:]}"
        assert MISUSE not in said, f"{page.name}: {step.line}\n{said[-2000:]}"


def _way(ways: Mapping[tuple[str, ...], Any], words: Sequence[str]) -> Any:
    found = [way for prefix, way in ways.items() if tuple(words[: len(prefix)]) == prefix]
    assert found, f"nothing here can execute: {shlex.join(words)}"
    return found[0]


def test_a_command_that_nothing_executes_is_found(ways: Mapping[Any, Any]) -> None:
    with pytest.raises(AssertionError, match="nothing here can execute: curl"):
        _way(ways, ["curl", "example.org"])


def test_commands_within_sentences_have_verbs_and_flags_that_there_are() -> None:
    verbs = _verbs_of(harness.cli._parser())
    for page in PAGES:
        for span in SPAN.findall(page.read_text()):
            verb, *rest = span.removeprefix("python -m harness ").split()
            if verb in ("VERB", "--version", "--help"):
                continue
            assert verb in verbs, f"{page.name}: {span}"
            known = _flags_of(verbs[verb])
            assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known, f"{page.name}: {span}"


def _flags_of(parser: argparse.ArgumentParser) -> set[str]:
    found = {flag for action in parser._actions for flag in action.option_strings}
    return found.union(*map(_flags_of, _verbs_of(parser).values()))


def _verbs_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: each for action in inner for name, each in action.choices.items()}


def test_blocks_marks_files_and_several_commands_in_a_line_are_read() -> None:
    a_file = "<!-- file: a.toml -->\n```toml\nx = 1\n```\n"
    page = a_file + "<!-- expect: 2 a | b -->\n```sh\nfirst && second # why\n```\n```\nno\n```\n"
    assert list(steps_of(page)) == [
        Step("a.toml", text="x = 1\n"),
        Step("first", 2, "a"),
        Step("second # why", 2, "b"),
    ]


def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for page in tmp_path.rglob("*.html"):
        html = page.read_text()
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*", html)
        assert not fetched, f"{page.name} fetches {fetched}"
        assert "<!-- presets -->" not in html, "the tables come from the code"
        assert "<!-- rules -->" not in html, "the tables come from the code"
