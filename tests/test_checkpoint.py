"""A damaged checkpoint costs the steps since the one before it, and no more."""

import io
from pathlib import Path

import pytest
import torch

from harness.checkpoint import Checkpoints, State
from harness.errors import UserError


def _state(value: float) -> State:
    return {"run_id": "0" * 12, "model": {"w": torch.tensor(value)}, "ema": [], "optimizer": {}}


def _saved(folder: Path, *steps: int) -> list[Path]:
    checkpoints = Checkpoints(folder, "here")
    for step in steps:
        checkpoints.save(step, _state(float(step)))
    return sorted(folder.glob("step-*.pt"))


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [_flip, _cut, _empty])
def test_the_one_before_is_taken_and_the_damage_noted(tmp_path: Path, damage: object) -> None:
    older, newest = _saved(tmp_path, 10, 20)
    damage(newest)  # type: ignore[operator]
    checkpoints = Checkpoints(tmp_path, "here")
    state = checkpoints.load()
    assert state is not None
    assert (state["step"], float(state["model"]["w"])) == (10, 10.0)
    assert checkpoints.notes == [f"the checkpoint {newest.name} was damaged: went on from step 10"]
    of_another_process = Checkpoints(tmp_path, "here").load()
    assert of_another_process is not None, "several may load before one saves"
    assert of_another_process["step"] == 10
    checkpoints.save(12, _state(12.0))
    assert [int(f.name.split("-")[1]) for f in sorted(tmp_path.glob("step-*.pt"))] == [10, 12]
    assert (tmp_path / f"damaged-{newest.name}").exists(), "what is damaged is kept for whoever wants to know why"
    assert older.exists()


def test_the_newest_is_taken_where_it_is_whole(tmp_path: Path) -> None:
    older, _ = _saved(tmp_path, 10, 20)
    _flip(older)
    state = Checkpoints(tmp_path, "here").load()
    assert state is not None
    assert state["step"] == 20


def test_a_training_does_not_start_anew_by_itself_where_all_are_damaged(tmp_path: Path) -> None:
    for file in _saved(tmp_path, 10, 20):
        _flip(file)
    with pytest.raises(UserError, match=r"step-000000020.* is damaged") as caught:
        Checkpoints(tmp_path, "here").load()
    assert "delete them all" in caught.value.remedy
    assert len(list(tmp_path.glob("step-*.pt"))) == 2


def test_a_signal_in_the_middle_of_a_save_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.FileIO):
        def write(self, content: object) -> int:
            raise KeyboardInterrupt

    def opened(path: Path, mode: str) -> Interrupted:
        return Interrupted(path, mode)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(KeyboardInterrupt):
        Checkpoints(tmp_path, "here").save(1, _state(1.0))
