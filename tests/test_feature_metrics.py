"""Inception Score, precision and recall, kernel distances and SSIM, against known answers and other implementations."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from cleanfid import fid as clean_fid
from scipy.spatial.distance import cdist
from scipy.special import softmax
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from harness.errors import UserError
from harness.files import read_array, write_array
from harness.metrics import kernel_distance as kernels
from harness.metrics import precision_recall as manifolds
from harness.metrics.inception_score import inception_score, inception_score_of_parts
from harness.metrics.kernel_distance import kernel_distance, mean_discrepancy
from harness.metrics.precision_recall import ADM, SINGLE, Arithmetic, Manifold, PrecisionRecall, precision_recall
from harness.reconstruction import errors_of, structural_similarity

Features = npt.NDArray[np.float32]


def _features(count: int, width: int, seed: int, scale: float = 1.0) -> Features:
    random = np.random.default_rng(seed)
    return (scale * random.normal(size=(count, width)) + 0.2 * seed).astype(np.float32)


def _found(images: Features, reference: Features, arithmetic: Arithmetic) -> PrecisionRecall:
    return precision_recall(Manifold(images, 3, arithmetic), Manifold(reference, 3, arithmetic))


def test_a_classifier_that_is_sure_and_sees_all_classes_gives_their_number() -> None:
    assert inception_score(np.eye(10)[np.arange(100) % 10]).value == pytest.approx(10)


def test_a_classifier_that_does_not_know_gives_one() -> None:
    assert inception_score(np.full((50, 10), 0.1, np.float32)).value == pytest.approx(1)


def test_adm_takes_chunks_in_the_order_of_files_and_the_last_may_be_short() -> None:
    probabilities = softmax(_features(25, 6, 0, 3.0), axis=1)
    found = inception_score(probabilities, 10)
    each = [inception_score(part).value for part in (probabilities[:10], probabilities[10:20], probabilities[20:])]
    assert found.value == pytest.approx(np.mean(each))
    assert found.spread == pytest.approx(np.std(each))
    assert found.parts == 3


@pytest.mark.parametrize(("parts", "seed"), [(10, 2020), (3, None), (7, 5)])
def test_inception_score_is_torch_fidelitys(parts: int, seed: int | None) -> None:
    """To 1e-9: both are float64, and differ in the order of sums alone."""
    logits = _features(101, 12, 0, 4.0)
    theirs = isc_features_to_metric(torch.from_numpy(logits), parts, seed is not None, seed or 0)
    ours = inception_score_of_parts(softmax(logits.astype(np.float64), axis=1), parts, seed)
    assert ours.value == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert ours.spread == pytest.approx(theirs["inception_score_std"], rel=1e-9)


@pytest.mark.parametrize("width", [4, 64])
def test_kernel_distance_is_clean_fids(width: int) -> None:
    """To 1e-9: both are float64 here; clean-fid draws from numpy's global numbers, we do not."""
    images, reference = _features(150, width, 0).astype(np.float64), _features(120, width, 1).astype(np.float64)
    for subsets, size in ((20, 1000), (20, 50)):
        np.random.seed(7)
        theirs = clean_fid.kernel_distance(reference, images, subsets, size)
        after = np.random.get_state(legacy=False)
        ours = kernel_distance(images, reference, 7, subsets, size)
        assert ours.value == pytest.approx(theirs, rel=1e-9)
        assert str(np.random.get_state(legacy=False)) == str(after)
        assert ours.subset_size == min(size, 120)


def test_kernel_distance_is_torch_fidelitys() -> None:
    images, reference = _features(150, 16, 0).astype(np.float64), _features(120, 16, 1).astype(np.float64)
    given = {"kid_subsets": 9, "kid_subset_size": 60, "rng_seed": 2020, "verbose": False}
    theirs = kid_features_to_metric(torch.from_numpy(images), torch.from_numpy(reference), **given)
    ours = kernel_distance(images, reference, 2020, 9, 60)
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert ours.spread == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


def test_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    """Without bias, unlike a Fréchet distance of as few images."""
    features = np.random.default_rng(0).normal(size=(2000, 8))
    found = kernel_distance(features[::2], features[1::2], subsets=200, subset_size=100)
    assert abs(found.value) < 3 * found.spread / np.sqrt(found.subsets)
    assert kernel_distance(features[::2], features[1::2] + 1, subsets=20, subset_size=100).value > 5 * found.spread


def test_cmmd_is_its_definition_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    images, reference = (_unit(_features(count, 24, seed)) for count, seed in ((70, 0), (45, 1)))
    kernel = [np.exp(-cdist(*pair, "sqeuclidean") / 200).mean() for pair in _pairs(images, reference)]
    expected = 1000 * (kernel[0] + kernel[1] - 2 * kernel[2])
    for block in (1, 13, 45, 2000):
        monkeypatch.setattr(kernels, "BLOCK", block)
        found = mean_discrepancy(images, reference)
        assert found.value == pytest.approx(expected, rel=1e-9)
        assert (found.within, found.within_reference, found.between) == pytest.approx(tuple(kernel))


def test_cmmd_of_a_set_with_itself_is_zero() -> None:
    images = _unit(_features(50, 24, 0))
    assert mean_discrepancy(images, images[::-1]).value == pytest.approx(0, abs=1e-9)


def test_precision_and_recall_are_shares_of_points_in_balls() -> None:
    """By hand, with whole distance matrices."""
    images, reference = _features(90, 5, 0), _features(70, 5, 1)
    own, others, between = (cdist(*pair, "sqeuclidean") for pair in _pairs(images, reference))
    radii, radii_of_reference = np.sort(own)[:, 3], np.sort(others)[:, 3]
    found = _found(images, reference, SINGLE)
    assert found.precision == (between <= radii_of_reference).any(axis=1).mean()
    assert found.recall == (between <= radii[:, None]).any(axis=0).mean()


@pytest.mark.parametrize("arithmetic", [ADM, SINGLE])
def test_blocks_change_no_bit(arithmetic: Arithmetic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole numbers, whose products are exact in any order: there are many ties, of which the first counts."""
    images, reference = (np.round(2 * _features(count, 7, seed)) for count, seed in ((60, 0), (83, 1)))
    whole = Manifold(reference, 3, arithmetic)
    seen, score = whole.realism(images), _found(images, reference, arithmetic)
    monkeypatch.setattr(manifolds, "TILE", 5)
    for block in (3, 17):
        smaller = Arithmetic(arithmetic.half, block)
        pieces = Manifold(reference, 3, smaller)
        again = pieces.realism(images)
        np.testing.assert_array_equal(pieces.radii, whole.radii)
        np.testing.assert_array_equal(again.nearest, seen.nearest)
        np.testing.assert_array_equal(again.score, seen.score)
        assert _found(images, reference, smaller) == score


def test_precision_and_recall_are_torch_fidelitys() -> None:
    """To 1e-6: the same points are inside, and their means are float32."""
    images, reference = _features(210, 9, 0), _features(190, 9, 1)
    given = {"prc_neighborhood": 3, "prc_batch_size": 64, "save_cpu_ram": False, "verbose": False}
    theirs = prc_features_to_metric(torch.from_numpy(images), torch.from_numpy(reference), **given)
    ours = _found(images, reference, SINGLE)
    assert 0.2 < ours.recall < ours.precision + 0.8
    got = [ours.precision, ours.recall, ours.f_score]
    np.testing.assert_allclose(got, [theirs[name] for name in ("precision", "recall", "f_score")], atol=1e-6)


def test_half_precision_is_rounded_as_adm_does() -> None:
    """In numpy's own half precision, operation by operation."""
    points = _features(40, 6, 3, 2.0)
    half = points.astype(np.float16)
    squares = (half * half).astype(np.float32).sum(axis=1).astype(np.float16)
    products = (half.astype(np.float32) @ half.astype(np.float32).T).astype(np.float16)
    distances = np.maximum((squares[:, None] - np.float16(2) * products) + squares, np.float16(0))
    np.testing.assert_array_equal(Manifold(points, 3, ADM).radii, np.sort(distances.astype(np.float32))[:, 3])
    assert (Manifold(points, 3, ADM).radii != Manifold(points, 3, SINGLE).radii).any()


def test_what_overflows_in_half_precision_is_done_in_single() -> None:
    points = _features(30, 6, 0, 200.0)
    np.testing.assert_array_equal(Manifold(points, 3, ADM).radii, Manifold(points, 3, SINGLE).radii)


def test_only_the_block_that_overflows_is_done_in_single() -> None:
    points = _features(20, 6, 0)
    points[15] = 300
    found = Manifold(points, 3, Arithmetic(block=10)).radii
    halves, singles = (Manifold(points[:10], 3, arithmetic).radii for arithmetic in (ADM, SINGLE))
    assert (halves != singles).any()
    assert np.isfinite(found).all()
    assert found[15] == Manifold(points, 3, SINGLE).radii[15]


def test_a_set_covers_itself() -> None:
    points = _features(30, 4, 0)
    assert _found(points, points, ADM) == PrecisionRecall(1.0, 1.0)
    far = _found(points, points + 100, SINGLE)
    assert (far.precision, far.recall, far.f_score) == (0.0, 0.0, 0.0)


def test_realism_is_the_largest_ratio_of_radius_and_distance() -> None:
    images, reference = _features(25, 4, 0), _features(31, 4, 1)
    manifold = Manifold(reference, 3, SINGLE)
    between = cdist(images, reference, "sqeuclidean")
    found = manifold.realism(images)
    np.testing.assert_allclose(found.score, (manifold.radii / (between + 1e-5)).max(axis=1), rtol=1e-4)
    np.testing.assert_array_equal(found.nearest, between.argmin(axis=1))
    assert found.share_inside == (between <= manifold.radii).any(axis=1).mean()


def test_features_may_be_mapped_from_disk(tmp_path: Path) -> None:
    images, reference = _unit(_features(60, 6, 0)), _unit(_features(50, 6, 1))
    probabilities = softmax(images, axis=1)
    stored = []
    for index, array in enumerate((images, reference, probabilities)):
        write_array(tmp_path / f"{index}.npy", array)
        stored.append(read_array(tmp_path / f"{index}.npy", mapped=True))
    assert all(isinstance(array, np.memmap) for array in stored)
    assert _found(stored[0], stored[1], ADM) == _found(images, reference, ADM)
    assert kernel_distance(stored[0], stored[1], subsets=3) == kernel_distance(images, reference, subsets=3)
    assert mean_discrepancy(stored[0], stored[1]) == mean_discrepancy(images, reference)
    assert inception_score(stored[2], 9) == inception_score(probabilities, 9)


@pytest.mark.parametrize(
    "measure",
    [
        lambda few: Manifold(few[:3]),
        lambda few: kernel_distance(few[:1], few),
        lambda few: mean_discrepancy(few[:0], few),
        lambda few: inception_score(few[:0]),
        inception_score_of_parts,
    ],
)
def test_too_few_images_are_no_zero(measure: Callable[[Features], object]) -> None:
    with pytest.raises(UserError, match="image"):
        measure(_unit(_features(5, 3, 0)))


def test_an_image_is_wholly_similar_to_itself_and_less_to_others() -> None:
    images = torch.rand(3, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    found = errors_of(images, torch.stack([images[0], images[1] + 0.05, images[0]])).ssim
    assert found is not None
    assert found[0] == pytest.approx(1)
    assert found[2] < 0.2 < found[1] < 1


def test_an_image_of_five_pixels_has_no_structural_similarity() -> None:
    assert structural_similarity(torch.zeros(2, 1, 9, 5), torch.zeros(2, 1, 9, 5)) is None
    assert structural_similarity(torch.zeros(2, 1, 6, 8), torch.zeros(2, 1, 6, 8)) is not None


def _unit(features: Features) -> Features:
    unit: Features = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit


def _pairs(one: Features, other: Features) -> list[tuple[Features, Features]]:
    return [(one, one), (other, other), (one, other)]
