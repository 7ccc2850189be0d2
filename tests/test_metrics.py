"""Metrics against cases whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.comparability import UNGUIDED
from harness.data import Labels, digits
from harness.images import Pixels
from harness.judging import Setting, score_run
from harness.metric_definitions import definitions_of
from harness.metrics import cost, outliers
from harness.outlier_records import OutlierStatistics, verdict_of
from harness.records import Measurement
from harness.run import run
from harness.spec import Protocol
from tests.builders import quick_config, sampled


def _judged(pixels: Pixels, labels: Labels, place: Path) -> dict[str, Measurement]:
    """What images of digits score, by name."""
    place.mkdir()
    np.savez(place / "images.npz", arr_0=pixels.transpose(0, 2, 3, 1), labels=labels)
    scores = score_run(place / "images.npz", ("digits",), UNGUIDED, Setting(), place / "features")
    return {measurement.name: measurement for measurement in scores.measurements}


def test_real_digits_are_near_themselves_and_noise_is_far(tmp_path: Path) -> None:
    images = digits()
    everything = images.pixels(np.arange(len(images)))
    found = _judged(everything, images.labels, tmp_path / "all")
    assert found["fd_digits"].value == 0
    assert found["digits_accuracy"].value > 0.97
    assert (found["precision_digits"].value, found["recall_digits"].value) == (1, 1)
    half = _judged(everything[::2], images.labels[::2], tmp_path / "half")
    noise = np.random.default_rng(0).integers(0, 256, everything.shape, dtype=np.uint8)
    far = _judged(noise, images.labels, tmp_path / "noise")
    assert half["fd_digits"].value < 2
    assert far["fd_digits"].value > 50
    assert far["digits_accuracy"].value < 0.3
    assert far["precision_digits"].value < 0.3


def test_the_metric_never_calls_itself_fid() -> None:
    assert all("fid" not in each.name for each in definitions_of("digits"))


@pytest.mark.parametrize(
    ("backbone", "changes", "expected"),
    [
        ("sit", ["sampler.method=euler", "sampler.points=50"], 49),
        ("sit", ["sampler.method=heun", "sampler.points=26"], 50),
        ("sit", ["sampler.method=dopri5"], None),
        ("sit", ["sampler.kind=sde", "sampler.points=250"], 2 * 249 + 2),
        ("dit", ["sampler.respacing=250"], 250),
        ("dit", ["sampler.respacing=250", "protocol.guidance.scale=2"], 500),
        ("jit", ["sampler.points=51"], 99),
        ("jit", ["sampler.points=51", "protocol.guidance.scale=3", "protocol.guidance.interval=[0.5,1]"], 99 + 48),
        ("sit", ["sampler.method=euler", "sampler.points=50", "registers.guidance.scale=1"], 49),
        ("sit", ["sampler.method=euler", "sampler.points=50", "registers.guidance.scale=2"], 98),
    ],
)
def test_evaluations_are_counted_not_steps(
    tmp_path: Path, backbone: str, changes: list[str], expected: int | None
) -> None:
    preset = "register-guidance" if any("registers.guidance" in change for change in changes) else "none"
    assert cost.evaluations(quick_config(tmp_path, backbone, preset, *changes)) == expected


@pytest.mark.parametrize("backbone", ["sit", "dit", "jit", "rae-dit"])
def test_the_count_of_evaluations_is_what_really_happens(tmp_path: Path, backbone: str) -> None:
    from harness.build import build
    from harness.sample import sample

    config = quick_config(tmp_path, backbone)
    denoiser = build(config)
    calls: list[None] = []
    denoiser.register_forward_hook(lambda *_: calls.append(None))
    sample(config, sampled(config, denoiser), np.arange(8), "float32")
    assert len(calls) == cost.evaluations(config)


def _statistics(patches: Tensor, registers: Tensor | None = None) -> OutlierStatistics:
    none = patches[:, :0] if registers is None else registers
    place = outliers.StatisticsOfPlace()
    place.add(patches, none)
    found = place.statistics(2, 0.5)
    assert found is not None
    return found


def test_a_planted_outlier_is_found_whatever_its_place() -> None:
    """Its place differs from image to image: averaging first would hide it."""
    random = torch.Generator().manual_seed(0)
    patches = torch.randn(8, 50, 16, generator=random)
    patches = patches / patches.norm(dim=-1, keepdim=True)
    calm = _statistics(patches)
    assert calm.max_over_median == pytest.approx(1, abs=1e-5)
    assert (calm.share_above_3x, calm.share_above_5x) == (0, 0)
    for image in range(8):
        patches[image, image * 5] *= 20
    planted = _statistics(patches)
    assert planted.max_over_median == pytest.approx(20, rel=1e-4)
    assert planted.top_over_median == planted.max_over_median
    assert planted.share_above_5x == planted.share_above_10x == pytest.approx(1 / 50)
    assert (planted.images_above_3x, planted.share_above_tau, planted.tau) == (1, 0, 100)
    assert planted.position_entropy_largest == pytest.approx(np.log(8) / np.log(50), rel=1e-5)
    assert planted.position_entropy_above_3x == planted.position_entropy_largest


def test_outliers_that_stay_in_their_place_have_no_entropy() -> None:
    patches = torch.ones(8, 50, 16)
    assert _statistics(patches).position_entropy_above_3x is None
    patches[:, 7] *= 4
    found = _statistics(patches)
    assert (found.position_entropy_largest, found.position_entropy_above_3x) == (0, 0)
    patches[0, 20:30] *= 4
    moved = _statistics(patches)
    shares = [7 / 8 + 1 / 88, *[1 / 88] * 10]
    expected = -sum(share * np.log(share) for share in shares) / np.log(50)
    assert moved.position_entropy_above_3x == pytest.approx(expected, rel=1e-5)


def test_tau_is_a_norm_and_no_multiple() -> None:
    patches = torch.ones(2, 20, 16) * 24
    patches[0, :5] *= 1.1
    found = _statistics(patches)
    assert found.median_norm == pytest.approx(96)
    assert found.share_above_tau == 5 / 40
    assert found.share_above_3x == 0


def test_a_channel_that_is_large_for_all_tokens_is_no_token_outlier() -> None:
    patches = torch.ones(4, 30, 16)
    patches[:, :, 3] = 100
    found = _statistics(patches)
    assert found.max_over_median == pytest.approx(1)
    assert found.channel_share > 0.99
    assert found.large_channels == 1
    assert verdict_of([found]) == "no outliers here"
    patches = torch.ones(4, 30, 16)
    patches[:, 5, 3] = 100
    token = _statistics(patches)
    assert (token.large_channels, token.has_outliers) == (0, True)
    assert token.channel_share > 0.99
    assert verdict_of([found, token]) == "outliers"


def test_norms_that_are_no_numbers_have_no_statistics() -> None:
    place = outliers.StatisticsOfPlace()
    place.add(torch.ones(2, 3, 4), torch.empty(2, 0, 4))
    assert place.statistics(0, 0.5) is not None
    assert place.add(torch.full((2, 3, 4), torch.inf), torch.empty(2, 0, 4)) is None
    assert place.statistics(0, 0.5) is None
    assert outliers.summary(Protocol(), []) == []


def test_registers_are_kept_apart() -> None:
    patches, registers = torch.ones(4, 30, 16), 7 * torch.ones(4, 2, 16)
    found = _statistics(patches, registers)
    assert found.max_over_median == pytest.approx(1)
    assert found.register_max_over_median == found.register_median_over_median == pytest.approx(7)
    without = _statistics(patches)
    assert without.register_max_over_median is without.register_median_over_median is None


def test_a_run_records_every_block_at_every_noise_level(tmp_path: Path) -> None:
    record = run(quick_config(tmp_path, "dit", "denoiser")).record
    assert [(o.time, o.block) for o in record.outliers] == [(t, b) for t in (0.2, 0.8) for b in range(3)]
    have_registers = [o.register_max_over_median is not None for o in record.outliers]
    assert have_registers == [False, True, True] * 2
