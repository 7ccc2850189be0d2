"""The board's page of one run: what it shows, and that its command repeats the run."""

import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import dsr
from harness import cli, database, registry, store
from harness.repeating import PROGRAM, repeat
from harness.run import run
from harness.spec import RunConfig, ThirdParty, Weights
from leaderboard import palette
from leaderboard.text import MOST, plain, short
from tests.builders import quick_config
from tests.test_store import make_record

ROOT = Path(__file__).parent.parent
PAGE = """
import sys
from pathlib import Path
from leaderboard.screens import run
from leaderboard.view import opened
run.show(opened(Path(sys.argv[1])))
"""
DEEPER = ("network.depth=4", "recipe.betas=[0.8, 0.99]", "protocol.noise_levels=[0.5]", "latents.kind=stand-in")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run with registers beside its matched one, the first of them repeated."""
    place = tmp_path_factory.mktemp("run")
    for registers in ("none", "denoiser"):
        run(quick_config(place, "sit", registers))
    run(quick_config(place, "sit", "denoiser"), again=True)
    database.rebuild(place / "results")
    return place / "results"


def _page(results: Path, monkeypatch: pytest.MonkeyPatch, run_id: str) -> AppTest:
    monkeypatch.setattr(sys, "argv", ["app.py", str(results)])
    page = AppTest.from_string(PAGE, default_timeout=60)
    page.query_params["run"] = run_id
    page.run()
    assert not page.exception
    return page


def _treated(results: Path) -> RunConfig:
    return next(s.record.config for s in store.read_all(results)[0] if s.record.config.registers.preset == "denoiser")


def test_a_run_stands_beside_its_matched_one(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _treated(results)
    page = _page(results, monkeypatch, config.run_id)
    values = page.dataframe[0].value.set_index("title")
    (distance,) = [name for name in values.index if name.startswith("fd_digits")]
    row = values.loc[distance]
    assert row["difference"] == row["value"] - row["base"]
    assert "cov" in row["parts"]
    said = "\n".join(each.value for each in page.markdown)
    assert f"(run?run={config.without_registers().run_id})" in said
    assert "2 records of this run" in said
    assert shlex.split(page.code[0].value) == shlex.split(repeat(config).command)


def test_what_was_set_beside_the_defaults_is_listed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(results, monkeypatch, _treated(results).run_id)
    (changed,) = [each.value for each in page.dataframe if "default" in each.value]
    assert changed.set_index("field")["this run"]["network.width"] == "16"


def test_an_address_of_no_run_is_said(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(results, monkeypatch, "<b>none</b>")
    assert "There is no run" in page.warning[0].value
    assert "<b>" not in page.warning[0].value


def test_a_missing_picture_and_a_missing_record_are_said(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    for file in [*copy.rglob("*.png"), *copy.rglob("measured/**/*.json")]:
        file.unlink()
    said = [each.value for each in _page(copy, monkeypatch, _treated(results).run_id).warning]
    assert "is missing" in said[0]
    assert "not there any more" in said[1]


def test_a_damaged_picture_is_said_and_the_rest_of_the_page_stands(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    for file in copy.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:60])
    page = _page(copy, monkeypatch, _treated(results).run_id)
    assert "missing or damaged" in page.warning[0].value
    assert page.code


def test_a_matched_run_that_is_not_here_is_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = quick_config(tmp_path, "sit", "denoiser")
    store.append(tmp_path / "results", make_record(config), None)
    database.rebuild(tmp_path / "results")
    page = _page(tmp_path / "results", monkeypatch, config.run_id)
    assert not any("run?run=" in each.value for each in page.markdown)
    assert any("no matched run" in each.value for each in page.caption)


def test_a_diverged_run_with_an_ugly_note_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = quick_config(tmp_path, "sit", "denoiser")
    note = "<script>alert(1)</script> **bold** :fire: " + "x" * 10_000
    update = {"status": "diverged", "diverged_at_step": 3, "measurements": (), "notes": (note,)}
    store.append(tmp_path / "results", make_record(config).model_copy(update=update), None)
    database.rebuild(tmp_path / "results")
    page = _page(tmp_path / "results", monkeypatch, config.run_id)
    said = [each.value for each in page.info]
    assert "<script>" not in said[0]
    assert len(said[0]) < 2500
    assert "measured nothing" in said[1]
    assert any("diverged at step 3" in each.value for each in page.markdown)


def _committed() -> Iterator[RunConfig]:
    """Of each backbone's committed records the newest of every third arm, and all over stand-in latents."""
    arms = {each.record.config.arm_id: each.record.config for each in store.read_all(ROOT / "results")[0]}
    yield from (config for n, config in enumerate(arms.values()) if n % 3 == 0 or config.latents.kind == "stand-in")


def test_the_command_of_a_committed_record_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {config.run_id: repeat(config) for config in _committed()}
    assert len(commands) > 10
    for run_id, found in commands.items():
        assert found.is_sure, found
        assert _resolved(found.command, capsys) == run_id


def test_the_command_of_a_changed_run_repeats_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for backbone, changes in (("sit", DEEPER), ("dit", ("sampler.respacing=3",)), ("jit", ("recipe.decay=cosine",))):
        config = quick_config(tmp_path, backbone, "dsr", *changes, seed=7).published()
        found = repeat(config)
        assert found.is_sure, found
        assert _resolved(found.command, capsys) == config.run_id


def _resolved(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    words = shlex.split(command)
    assert tuple(words[:4]) == PROGRAM
    assert cli.main([*words[3:], "--dry-run"]) == 0
    return str(json.loads(capsys.readouterr().out)["run_id"])


def test_what_a_command_needs_besides_is_said(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "denoiser").published()
    released = repeat(config.model_copy(update={"weights": Weights(name="sit.pt", sha256="1" * 64)}))
    assert not released.is_sure
    assert "--weights WEIGHTS" in released.command
    assert "sit.pt" in released.needs[0]
    data = config.task.model_copy(update={"name": "folder", "data_fingerprint": "abc", "num_training_images": 15})
    folder = repeat(config.model_copy(update={"task": data}))
    assert "--data DIR" in folder.command
    assert "fingerprint abc" in folder.needs[0]


def test_no_file_that_a_record_names_is_run(tmp_path: Path) -> None:
    """A record is a stranger's: its backbone may be the path of a file on this machine."""
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    config = quick_config(tmp_path).published()
    for update in (
        {"backbone": f"{trap}:x"},
        {"third_party": ThirdParty(file="trap.py", sha256="0" * 64), "backbone": f"{trap}:x"},
    ):
        found = repeat(config.model_copy(update=update))
        assert not found.is_sure
        assert found.needs
        assert found.settings is None
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "**bold** _it_ `code` [link](javascript:alert(1)) ![x](http://x)",
        "# heading\n\n- list\n\n| a | b |",
        ":fire: :red[text] :material/home: $x^2$",
        "x" * 10_000,
        "שלום \u202e\u2066 x",
        "\x00\x1b[31m \ud800",
        "",
    ],
)
def test_text_of_strangers_stays_text(text: str) -> None:
    line = short(text)
    assert len(line) <= MOST + 2
    assert not any(each in line for each in "\n\x00\x1b\u202e\u2066\ud800")
    marked = plain(text)
    assert all(marked[at - 1] == "\\" for at, each in enumerate(marked) if each in "<>*_`[]()!#|$&~")
    assert ":fire:" not in marked.replace("\\", "")


def test_every_preset_and_family_has_a_mark_of_its_own_that_stands_out() -> None:
    presets = [palette.of_registers(name) for name in dsr.PRESETS]
    families = [palette.of_backbone(f"{name}-tiny") for name in registry.families()]
    assert len(set(presets)) == len(presets)
    assert len(set(families)) == len(families)
    for mark in {*presets, *families, palette.of_registers("a stranger's")}:
        for page in ("#ffffff", "#0e1117"):
            light, dark = sorted((_luminance(mark.colour), _luminance(page)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3, mark


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
