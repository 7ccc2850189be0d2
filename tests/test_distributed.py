"""Several processes make what one makes: the same losses to rounding, the same images and distances bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from harness import workspace
from harness.denoiser import Denoiser
from harness.distributed import ALONE, World, joined
from harness.errors import UserError
from harness.perform import perform
from harness.spec import RunConfig
from harness.training_draw import draw_step
from tests.builders import quick_config
from tests.world import executed, together, trained

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
    for name in ("samples.npz", "samples-unguided.npz", "samples.png", "weights.safetensors"):
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


def test_a_batch_too_small_to_be_shared_is_refused(tmp_path: Path) -> None:
    config = executed(quick_config(tmp_path), processes=3, accumulate=3)
    with pytest.raises(UserError, match="a batch of 8 images cannot be cut into 9 pieces: 3 \\(processes\\) x 3"):
        perform(config, workspace.Workspace(tmp_path), World(0, 3))


@pytest.mark.parametrize(("count", "size"), [(0, 3), (2, 3), (9, 2), (256, 7)])
def test_shares_are_equal_to_one_and_leave_nothing(count: int, size: int) -> None:
    shares = [World(rank, size).share(count) for rank in range(size)]
    assert [index for share in shares for index in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
