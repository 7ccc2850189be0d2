"""A run may be killed at any moment: it goes on, and ends with the same bytes."""

import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness import checkpoint, train
from harness.cli import main
from harness.run import run
from harness.spec import RunConfig
from tests.builders import quick_config, quick_words, sampled
from tests.nursery import Forked, fork

KILLS = 10
STEPS = 200


def _bytes(config: RunConfig) -> tuple[bytes, bytes]:
    folder = Path(config.execution.runs) / config.run_id
    return (folder / "weights.safetensors").read_bytes(), (folder / "samples.npz").read_bytes()


def _start(place: Path, registers: str) -> Forked:
    words = [*quick_words("sit", registers, f"recipe.steps={STEPS}"), "--seed", "3", "--device", "cpu"]
    return fork(_work, place, words)


def _work(place: Path, words: list[str]) -> None:
    """A command, with checkpoints at every stop, so that kills fall into the writing of them too."""
    os.chdir(place)
    checkpoint.SECONDS_BETWEEN, checkpoint.MOST_OVERHEAD, train.LOG_EVERY = 0.0, 1e9, 2
    sys.exit(main(words))


def test_ten_kills_leave_no_trace(tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    broken.mkdir()
    whole.mkdir()
    config = quick_config(whole, "sit", "dsr", f"recipe.steps={STEPS}", seed=3)
    run(config)
    checkpoints = broken / "runs" / config.run_id / "checkpoints"
    moments = random.Random(0)
    reached = []
    for _ in range(KILLS):
        process = _start(broken, "dsr")
        before = set(checkpoints.glob("*.pt"))
        while process.poll() is None and set(checkpoints.glob("*.pt")) == before:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.25))
        process.kill()
        process.wait()
        reached.append(max((int(f.stem.split("-")[1]) for f in checkpoints.glob("step-*-*.pt")), default=0))
    assert _start(broken, "dsr").wait() == 0
    assert reached == sorted(reached)
    assert reached[0] < STEPS, "the first kill came too late to show anything"
    assert _bytes(config) == _bytes(config.model_copy(update={"execution": _in(config, broken)}))


def _in(config: RunConfig, place: Path) -> object:
    return config.execution.model_copy(update={"runs": str(place / "runs")})


def test_dropout_a_second_average_and_dropped_registers_survive_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.training_draw import draw_step

    sets = ("network.dropout=0.5", "recipe.second_ema_decay=0.8", "registers.guidance.drop_probability=0.5")
    whole, broken = (quick_config(tmp_path / n, "jit", "register-guidance", *sets, "recipe.steps=30") for n in "ab")
    run(whole)
    monkeypatch.setattr("harness.train.LOG_EVERY", 4)
    monkeypatch.setattr("harness.checkpoint.SECONDS_BETWEEN", 0.0)
    calls = []

    def stops_at_the_tenth(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return draw_step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("harness.train.draw_step", stops_at_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    run(broken)
    assert 30 < len(calls) < 40, "it went on, and did not start anew"
    assert _bytes(whole) == _bytes(broken)
    first, second = (
        (Path(c.execution.runs) / c.run_id / "weights-second-ema.safetensors").read_bytes() for c in (whole, broken)
    )
    assert first == second != _bytes(whole)[0]


def test_weights_and_samples_are_equal_after_a_stop_in_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import harness.sample

    whole, broken = quick_config(tmp_path / "a"), quick_config(tmp_path / "b", "sit", "none")
    broken = broken.model_copy(update={"execution": broken.execution.model_copy(update={"sampling_batch": 8})})
    run(whole)
    real, calls = harness.sample.sample, []

    def stops_at_the_third(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(harness.sample, "sample", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    assert len(list(Path(broken.execution.runs).glob("*/sample-parts/*/*.npy"))) == 2
    run(broken)
    assert len(calls) == 3 + 2, "batches that were kept are not made again"
    assert _bytes(whole) == _bytes(broken)


@pytest.mark.parametrize("backbone", ["sit", "dit", "jit", "rae-dit-dh"])
def test_an_image_does_not_depend_on_its_batch(tmp_path: Path, backbone: str) -> None:
    config = quick_config(tmp_path, backbone, "denoiser", "protocol.num_images=150")
    run(config)
    want = np.load(Path(config.execution.runs) / config.run_id / "samples.npz")["arr_0"]
    from harness.build import build
    from harness.sample import sample

    denoiser = build(config)
    denoiser.load_state_dict(load_file(Path(config.execution.runs) / config.run_id / "weights.safetensors"))
    torch.set_num_threads(1)
    made_from = sampled(config, denoiser)
    everything = sample(config, made_from, np.arange(150), "float32")
    for size in (7, 64):
        parts = [sample(config, made_from, np.arange(150)[i : i + size], "float32") for i in range(0, 150, size)]
        np.testing.assert_array_equal(np.concatenate(parts), everything)
    from harness.images import to_uint8

    np.testing.assert_array_equal(to_uint8(everything, "round").transpose(0, 2, 3, 1), want)


def test_a_finished_run_is_shown_and_not_repeated(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    first, second = run(config), run(config)
    assert first.is_new
    assert not second.is_new
    assert first.record == second.record
    third = run(config, again=True)
    assert third.is_new
    assert third.path != first.path
    assert first.path.exists()
    weights = [m.value for m in first.record.measurements if m.name == "fd_digits"]
    assert weights == [m.value for m in third.record.measurements if m.name == "fd_digits"]


def test_the_second_of_two_processes_is_told_to_wait(tmp_path: Path) -> None:
    from harness import workspace
    from harness.errors import UserError

    config = quick_config(tmp_path)
    with workspace.enter(config), pytest.raises(UserError, match=str(os.getpid())):
        run(config)
    assert run(config).is_new


def test_a_result_that_could_not_be_published_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.errors import UserError

    config = quick_config(tmp_path)

    def full(*_: object) -> None:
        raise UserError("the disk is full", "free some space")

    with monkeypatch.context() as patched:
        patched.setattr("harness.store.append", full)
        with pytest.raises(UserError, match="disk is full"):
            run(config)
        with pytest.raises(UserError, match="disk is full"):
            run(config, again=True)
    kept = json.loads((Path(config.execution.runs) / config.run_id / "record.json").read_text())
    with monkeypatch.context() as patched:
        patched.setattr("harness.perform.perform", full)
        outcome = run(config)
    assert outcome.record.model_dump(mode="json")["created"] == kept["created"]
