"""Several processes make what one makes: the same losses to rounding, the same images and distances bit for bit."""

import contextlib
import os
import shutil
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from harness import workspace
from harness.denoiser import Denoiser
from harness.distributed import ALONE, World, joined
from harness.errors import UserError
from harness.executing import executed
from harness.files import write_text
from harness.perform import perform
from harness.process_group import require_own_gpus
from harness.spec import RunConfig
from harness.training_draw import draw_step
from tests.builders import quick_config
from tests.world import free_port, has_dropout, together, trained

torch.set_num_threads(1)

STEPS = 20
# A batch that neither two processes nor two pieces share evenly; gradients that are cut; registers that come and go.
UNEVEN = (f"recipe.steps={STEPS}", "recipe.batch_size=9")
ARMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "registers": ("sit", "dsr", ("recipe.gradient_clip=0.5",)),
    "dropped": ("sit", "register-guidance", ("registers.guidance.drop_probability=0.5", "recipe.second_ema_decay=0.8")),
    "masked": ("dit", "loss-mask", ()),
    "two-trunks": ("rae-dit-dh", "denoiser", ("recipe.trains_fixed_tables=true",)),
}
WAYS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"sharding": "fsdp"},
    "ddp-pieces": {"accumulate": 2},
    "fsdp-pieces": {"accumulate": 3, "sharding": "fsdp"},
}


def _config(place: Path, arm: str, *changes: str) -> RunConfig:
    backbone, preset, own = ARMS[arm]
    return quick_config(place, backbone, preset, *UNEVEN, *own, *changes)


def _losses(config: RunConfig, world: World) -> tuple[Any, ...]:
    """Losses, and what the averages predict: weights that do nothing, as a key's bias, are moved by rounding alone."""
    training, denoiser = trained(config, world)
    predicted = [_predicted(denoiser, config)]
    if training.second_ema:
        denoiser.load_state_dict({**denoiser.state_dict(), **training.second_ema})
        predicted.append(_predicted(denoiser, config))
    return training.losses, *predicted


def _predicted(denoiser: Denoiser, config: RunConfig) -> Tensor:
    channels, side = config.latents.shape(config.task)
    x = torch.randn(5, channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        predicted: Tensor = denoiser(x, torch.full((5,), 0.5), torch.arange(5))
    return predicted


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    """What one process gives."""
    place = tmp_path_factory.mktemp("alone")
    return {arm: _losses(_config(place, arm), ALONE) for arm in ARMS}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What two processes give, by arm and way."""
    place = tmp_path_factory.mktemp("two")
    names = [(arm, way) for arm in ARMS for way in WAYS]
    configs = [executed(_config(place / way, arm), **WAYS[way]) for arm, way in names]
    return dict(zip(names, together(_losses, configs, place), strict=True))


def _assert_same(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-6, atol=0)
    for ours, theirs in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("arm", ARMS)
def test_two_processes_lose_what_one_loses(
    arm: str, way: str, alone: dict[str, tuple[Any, ...]], by_two: dict[tuple[str, str], tuple[Any, ...]]
) -> None:
    _assert_same(by_two[arm, way], alone[arm])


@pytest.mark.parametrize("arm", ARMS)
def test_pieces_of_a_batch_lose_what_the_batch_loses(
    arm: str, alone: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    _assert_same(_losses(executed(_config(tmp_path, arm), accumulate=2), ALONE), alone[arm])


def test_captured_networks_lose_what_eager_ones_lose(alone: dict[str, tuple[Any, ...]], tmp_path: Path) -> None:
    """Graphs as torch.compile captures them, run by torch itself."""
    ways: dict[str, dict[str, Any]] = {"ddp": {}, "ddp-pieces": {"accumulate": 2}, "fsdp": {"sharding": "fsdp"}}
    configs = [executed(_config(tmp_path / way, "dropped"), compiled=True, **ways[way]) for way in ways]
    for found in together(_captured, configs, tmp_path):
        _assert_same(found, alone["dropped"])


def _captured(config: RunConfig, world: World) -> tuple[Any, ...]:
    torch.compiler.reset()
    counters.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("torch.compile", partial(torch.compile, backend="eager"))
        losses = _losses(config, world)
    assert counters["stats"]["unique_graphs"]
    return losses


def _until_stopped(config: RunConfig, world: World) -> None:
    """Train, and stop when the next batch after a checkpoint is drawn."""

    def stops(*arguments: Any) -> Any:
        if arguments[3] == 13:
            raise KeyboardInterrupt
        return draw_step(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("harness.checkpoint.SECONDS_BETWEEN", 0.0)
        patched.setattr("harness.checkpoint.MOST_OVERHEAD", 1e9)
        patched.setattr("harness.train.draw_step", stops)
        with pytest.raises(KeyboardInterrupt):
            trained(config, world)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """From two with shared-out weights to one, and from one to two: as though one had done it all."""
    whole, _ = trained(_config(tmp_path / "whole", "dropped"))
    first_two, first_one = (_config(tmp_path / name, "dropped") for name in ("first-two", "first-one"))
    together(_until_stopped, [executed(first_two, sharding="fsdp")], tmp_path / "stopped")
    _until_stopped(first_one, ALONE)
    for config in (first_two, first_one):
        (kept,) = Path(config.execution.runs).rglob("step-*.pt")
        assert kept.name.startswith("step-000000010")
    by_one, _ = trained(first_two)
    (by_two,) = together(_losses, [executed(first_one, sharding="fsdp")], tmp_path / "went-on")
    for losses in (by_one.losses, by_two[0]):
        torch.testing.assert_close(losses, whole.losses, rtol=1e-6, atol=0)


def _trained_twice(config: RunConfig, world: World) -> list[tuple[Any, ...]]:
    """Undisturbed, and stopped on the way."""
    ended = []
    for place, stops in (("whole", False), ("stopped", True)):
        here = executed(config, runs=f"{config.execution.runs}/{place}")
        if stops:
            _until_stopped(here, world)
        training, denoiser = trained(here, world)
        assert has_dropout(denoiser)
        ended.append((training.losses, denoiser.state_dict()))
    return ended


def test_dropout_goes_on_where_it_stopped_in_every_process(tmp_path: Path) -> None:
    """Only the first one's generator is in the checkpoint."""
    changes = ("network.depth=4", "network.dropout=0.5", f"recipe.steps={STEPS}")
    (found,) = together(_trained_twice, [quick_config(tmp_path, "jit", "none", *changes)], tmp_path)
    (losses, weights), (same_losses, same_weights) = found
    assert torch.equal(losses, same_losses)
    for name, weight in weights.items():
        assert torch.equal(weight, same_weights[name]), name


def _goes_on_from(config: RunConfig, world: World) -> tuple[Any, ...]:
    training, _ = trained(config, world)
    return training.losses, sorted(file.name for file in _checkpoints(config).iterdir())


def _checkpoints(config: RunConfig) -> Path:
    return _folder(config) / "checkpoints"


def test_a_damaged_checkpoint_stops_no_run_of_several_processes(tmp_path: Path) -> None:
    """All go on from the one before it, though only the first one sets it aside."""
    whole, _ = trained(_config(tmp_path / "whole", "registers"))
    config = _config(tmp_path / "damaged", "registers")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("harness.checkpoint.SECONDS_BETWEEN", 0.0)
        patched.setattr("harness.checkpoint.MOST_OVERHEAD", 1e9)
        trained(config)
    older, newest = sorted(_checkpoints(config).iterdir())
    assert older.name.startswith("step-000000010")
    newest.write_bytes(newest.read_bytes()[:1000])
    ((losses, names),) = together(_goes_on_from, [config], tmp_path)
    torch.testing.assert_close(losses, whole.losses, rtol=1e-6, atol=0)
    assert f"damaged-{newest.name}" in names


def _performed(config: RunConfig, world: World) -> Any:
    return perform(config, workspace.Workspace(Path(config.execution.runs) / config.run_id), world)


def test_two_processes_make_the_images_and_distances_that_one_makes(tmp_path: Path) -> None:
    """Of the same weights; a run that is trained already is sampled and judged alone."""
    changes = ("protocol.num_images=150", "protocol.guidance.scale=2", "recipe.batch_size=9")
    one, two = (quick_config(tmp_path / name, "sit", "dsr", *changes) for name in ("one", "two"))
    one, two = (executed(config, sampling_batch=32) for config in (one, two))
    assert perform(one, workspace.Workspace(_folder(one)), until_trained=True) is None
    shutil.copytree(_folder(one), _folder(two))
    wanted = _performed(one, ALONE)
    (found,) = together(_performed, [two], tmp_path)
    samples = ("samples.npz", "samples-unguided.npz", "samples.png")
    for name in (*samples, "weights.safetensors", "moments.safetensors", "norm-maps.safetensors"):
        assert (_folder(one) / name).read_bytes() == (_folder(two) / name).read_bytes(), name
    judged = [measurement.value for measurement in wanted.measurements if measurement.basis]
    assert judged
    assert judged == [measurement.value for measurement in found.measurements if measurement.basis]
    assert (found.provenance.processes, wanted.provenance.processes) == (2, 1)
    assert any("2 processes (ddp)" in note for note in found.notes)


def _folder(config: RunConfig) -> Path:
    return Path(config.execution.runs) / config.run_id


def _fails_in_the_second(config: RunConfig, world: World) -> None:
    with world.blaming():
        if not world.is_first:
            raise UserError("the disk is full", "free some space")
        world.wait()


def test_a_process_that_fails_ends_the_others_and_they_say_why(tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException):
        together(_fails_in_the_second, [quick_config(tmp_path)], tmp_path)
    assert "process 1: the disk is full" in (tmp_path / "failed-0").read_text()


def _fails_while_the_first_hangs(config: RunConfig, world: World) -> None:
    runs = Path(config.execution.runs)
    runs.mkdir(exist_ok=True)
    if world.is_first:
        with (runs / "told").open("w") as told, world.parting(partial(write_text, runs / "state")):
            os.dup2(told.fileno(), sys.stderr.fileno())
            time.sleep(300)
    with contextlib.suppress(UserError), world.blaming():
        raise UserError("the disk is full", "free some space")
    while not (runs / "state").exists():
        time.sleep(0.05)


def test_a_process_that_hangs_is_ended_with_what_went_wrong_elsewhere(tmp_path: Path) -> None:
    """As one does that waits for a sum on a GPU."""
    config = quick_config(tmp_path)
    with pytest.raises((ProcessExitedException, ProcessRaisedException)):
        together(_fails_while_the_first_hangs, [config], tmp_path)
    for name in ("told", "state"):
        assert "process 1: the disk is full" in (Path(config.execution.runs) / name).read_text()


def _on_its_own_disk(config: RunConfig, world: World) -> None:
    if not world.is_first:
        config = executed(config, runs=config.execution.runs + "-elsewhere")
    trained(config, world)


def test_processes_that_see_other_checkpoints_do_not_train(tmp_path: Path) -> None:
    config = _config(tmp_path, "registers")
    trained(config)
    with pytest.raises(ProcessRaisedException, match="all machines of a run share"):
        together(_on_its_own_disk, [config], tmp_path)


def test_nobody_says_where_to_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    config = executed(quick_config(tmp_path), processes=2, rank=1)
    with pytest.raises(UserError, match="where they meet"), joined(config.execution):
        pass


def test_some_do_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("harness.process_group.MEETING", timedelta(seconds=1))
    config = executed(quick_config(tmp_path), processes=2, rank=0)
    with pytest.raises(UserError, match=r"not all of the 2 processes met at 127\.0\.0\.1:"), joined(config.execution):
        pass


def test_two_processes_on_one_gpu_are_refused() -> None:
    require_own_gpus(["H200 a of x", "H200 b of x", "H200 a of y"])
    with pytest.raises(UserError, match="processes 0 and 2 have one GPU between them: H200 a of x"):
        require_own_gpus(["H200 a of x", "H200 b of x", "H200 a of x"])


def test_a_gpu_that_is_too_small_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity ...")

    monkeypatch.setattr("harness.perform.train", full)
    with pytest.raises(UserError, match=r"training needs more memory than the GPU has: .* 2\.00 GiB\n") as caught:
        _performed(quick_config(tmp_path), ALONE)
    assert "--accumulate" in caught.value.remedy
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_a_batch_too_small_to_be_shared_is_refused(tmp_path: Path) -> None:
    config = executed(quick_config(tmp_path), processes=3, accumulate=3)
    with pytest.raises(UserError, match="a batch of 8 images cannot be cut into 9 pieces: 3 \\(processes\\) x 3"):
        perform(config, workspace.Workspace(tmp_path), World(0, 3))


@pytest.mark.parametrize(("count", "size"), [(0, 3), (2, 3), (9, 2), (256, 7)])
def test_shares_are_equal_to_one_and_leave_nothing(count: int, size: int) -> None:
    shares = [World(rank, size).share(count) for rank in range(size)]
    assert [index for share in shares for index in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
