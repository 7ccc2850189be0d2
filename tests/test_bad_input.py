"""Everything a user can get wrong: one clear message, exit code 2, nothing lost, no traceback."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from harness.run import run
from tests.builders import Said, harness, image_folder, quick_config, quick_words

NAMES_AND_SETTINGS = [
    (["run", "--backbone", "sti"], "did you mean sit"),
    (["run", "--backbone", "sit-xxl-2"], "sit-xl-2"),
    (["run", "--backbone", "sit-b-2", "--size", "xl-2"], "two sizes"),
    (["run", "--backbone", "sit", "--registers", "dsrr"], "did you mean dsr"),
    (["run", "--backbone", "sit", "--registers", "encoder"], "--registers denoiser"),
    (["run", "--backbone", "sit", "--task", "digit"], "did you mean digits"),
    (["run", "--backbone", "sit", "--data", "x"], "brings its own images"),
    (["run", "--backbone", "sit", "--registers", "dsr", "--set", "registers.denoiser.start_block=4"], "4 blocks"),
    (
        ["run", "--backbone", "sit", "--registers", "dsr", "--set", "registers.denoiser.count=0"],
        "greater than or equal",
    ),
    (["run", "--backbone", "sit", "--registers", "dsr", "--set", "registers.denoiser.count=2.5"], "integer"),
    (["run", "--backbone", "sit", "--set", "registers.denoiser.count=4"], "absent from this run"),
    (["run", "--backbone", "sit", "--registers", "dsr", "--set", "registers.denoiser=null"], "use --registers"),
    (["run", "--backbone", "sit", "--set", "recipe.stepz=4"], "did you mean steps"),
    (["run", "--backbone", "sit", "--set", "recipes.steps=4"], "did you mean recipe"),
    (["run", "--backbone", "sit", "--set", "recipe.steps=many"], "integer"),
    (["run", "--backbone", "sit", "--set", "recipe.learning_rate=NaN"], "finite"),
    (["run", "--backbone", "sit", "--set", "recipe"], "FIELD=VALUE"),
    (["run", "--backbone", "sit", "--set", "recipe=4"], "group of fields"),
    (["run", "--backbone", "sit", "--set", "registers.preset=dsr"], "use --registers"),
    (["run", "--backbone", "sit", "--set", "task.image_size=16"], "8 x 8"),
    (["run", "--backbone", "sit", "--set", "network.patch_size=3"], "do not tile"),
    (["run", "--backbone", "sit", "--set", "network.num_heads=5"], "5 heads"),
    (["run", "--backbone", "sit", "--set", "network.in_channels=3"], "network.in_channels"),
    (["run", "--backbone", "sit", "--set", "protocol.num_images=1001"], "1000 or 1010"),
    (["run", "--backbone", "sit", "--set", "sampler.kind=ddpm"], "ode or sde"),
    (["run", "--backbone", "dit", "--set", "sampler.respacing=2000"], "1000 steps"),
    (["run", "--backbone", "dit", "--set", "sampler.respacing=ddim7x"], "not understood"),
    (["run", "--backbone", "dit", "--set", "network.learn_sigma=false"], "objective needs 2"),
    (["run", "--backbone", "sit", "--set", "sampler.kind=sde", "--set", "sampler.diffusion=sbdm"], "infinite"),
    (["run", "--backbone", "sit", "--set", "sampler.kind=sde", "--set", "sampler.last_step_size=0"], "no value"),
    (["run", "--backbone", "sit", "--set", "recipe.betas=[1,0.9]"], "less than 1"),
    (["run", "--backbone", "sit", "--set", "protocol.guidance.interval=[0.9,0.1]"], "lower end"),
    (["run", "--backbone", "sit", "--set", "seed=4"], "use --seed"),
    (["run", "--backbone", "sit", "--set", "recipe.steps=99999999999"], "less than"),
    (["run", "--backbone", "sit", "--set", "network.null_class=false"], "no class"),
    (["run", "--backbone", "sit", "--seeds", "2-0"], "--seeds 0-2"),
    (["run", "--backbone", "sit", "--seed", "-1"], "whole number"),
    (["run"], "--backbone"),
    (["rum"], "invalid choice"),
    (["list", "backbone"], "did you mean backbones"),
    (["run", "--backbone", "sit", "--task", "folder"], "--data DIR"),
    (["run", "--backbone", "sit", "--task", "folder", "--data", "nowhere"], "does not exist"),
    (["table", "--task", "digits"], "nothing of task"),
    (["board", "--results", "nowhere"], "no folder"),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working folder that stands for a user's."""
    return tmp_path


def _is_refused(said: Said, words: str) -> None:
    assert said.code == 2, said
    assert "Traceback" not in said.err
    assert said.err.startswith("error: "), said.err
    assert "->" in said.err, "it does not say what to do"
    assert words in said.err, said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("words", "says"), NAMES_AND_SETTINGS, ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else ""
)
def test_names_and_settings(place: Path, words: list[str], says: str) -> None:
    _is_refused(harness(*words, cwd=place), says)
    assert list(place.rglob("*.json")) == []


def _no_classes(data: Path) -> None:
    shutil.rmtree(data)
    data.mkdir()


def _one_empty_class(data: Path) -> None:
    (data / "zebra").mkdir()


def _a_file(data: Path) -> None:
    shutil.rmtree(data)
    data.write_text("not a folder")


def _much_is_unreadable(data: Path) -> None:
    for file in sorted(data.rglob("*.png"))[:4]:
        file.write_bytes(b"\x89PNG not really")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_no_classes, "no subfolders"),
        (_one_empty_class, "zebra"),
        (_a_file, "not a folder"),
        (_much_is_unreadable, "4 of the 15"),
    ],
)
def test_unreadable_data(place: Path, spoil: Callable[[Path], None], says: str) -> None:
    data = image_folder(place / "data")
    spoil(data)
    said = harness("run", "--backbone", "sit", "--task", "folder", "--data", str(data), cwd=place)
    assert (said.code, "Traceback" in said.err) == (2, False), said
    assert says in said.err


class _Trap:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mknod, (str(self.path),))


@pytest.mark.parametrize("damage", ["a flipped byte", "cut short", "code"])
def test_a_spoiled_checkpoint(place: Path, damage: str) -> None:
    config = quick_config(place)
    first = run(config)
    folder = place / "runs" / config.run_id
    (newest,) = sorted(folder.glob("checkpoints/*.pt"))[-1:]
    content = newest.read_bytes()
    (folder / "record.json").unlink()
    sprung = place / "sprung"
    if damage == "a flipped byte":
        newest.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    elif damage == "cut short":
        newest.write_bytes(content[: len(content) // 2])
    else:
        newest.unlink()
        torch.save({"step": _Trap(sprung)}, folder / "trap.pt", pickle_module=pickle)
        import hashlib

        digest = hashlib.sha256((folder / "trap.pt").read_bytes()).hexdigest()[:16]
        (folder / "trap.pt").rename(folder / "checkpoints" / f"step-000000006-{digest}.pt")
    said = harness(*quick_words(), "--device", "cpu", "--again", cwd=place)
    _is_refused(said, "checkpoint" if damage != "code" else "could run code")
    assert not sprung.exists(), "the pickle ran"
    assert first.path.exists()


def test_a_spoiled_record_is_named_and_left_alone(place: Path) -> None:
    config = quick_config(place)
    good = run(config)
    folder = good.path.parent
    spoiled = {
        "empty.json": "",
        "half.json": good.path.read_text()[:500],
        "nan.json": good.path.read_text().replace('"seed": 0', '"seed": NaN'),
        "other-id.json": good.path.read_text().replace(config.run_id, "0123456789ab"),
        "changed-config.json": good.path.read_text().replace('"steps": 6', '"steps": 7'),
        "list.json": "[]",
    }
    for name, text in spoiled.items():
        (folder / name).write_text(text)
    said = harness("index", cwd=place)
    assert said.code == 2
    assert said.out.startswith("1 records, 6 files left out")
    assert "the database was built without them" in said.err
    for name, text in spoiled.items():
        assert f"{name}: " in said.err
        assert (folder / name).read_text() == text


def test_a_spoiled_record_of_this_very_run(place: Path) -> None:
    good = run(quick_config(place))
    good.path.write_text(good.path.read_text()[:-100])
    _is_refused(harness(*quick_words(), "--device", "cpu", cwd=place), "not a valid record")


SMALL_DISK = 8 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of eight megabytes, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("where", ["runs", "results"])
def test_a_full_disk(place: Path, small_disk: Path, where: str) -> None:
    (small_disk / "ballast").write_bytes(b"x" * (SMALL_DISK - 125_000 if where == "runs" else SMALL_DISK - 8_000))
    said = harness(*quick_words(), "--device", "cpu", f"--{where}", str(small_disk), cwd=place)
    _is_refused(said, "No space left")
    assert list(small_disk.rglob("*.part")) == []
    (small_disk / "ballast").unlink()
    finished = harness(*quick_words(), "--device", "cpu", f"--{where}", str(small_disk), cwd=place)
    assert finished.code == 0, finished.err


@pytest.mark.parametrize("where", ["runs", "results"])
def test_a_read_only_disk(place: Path, small_disk: Path, where: str) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = harness(*quick_words(), "--device", "cpu", f"--{where}", str(small_disk), cwd=place)
    _is_refused(said, "read-only")


def test_our_own_bugs_keep_their_traceback(place: Path) -> None:
    code = (
        "import harness.resolve, harness.cli as c; harness.resolve.resolve = None; c.main(['run', '--backbone', 'sit'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
