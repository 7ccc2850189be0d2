"""Moments and the Fréchet distance, against cases whose answer is known, clean-fid and torch-fidelity."""

import sys
import warnings

import numpy as np
import pytest
import torch
from cleanfid import fid as clean_fid
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_info
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from harness import frechet_bench
from harness.errors import UserError
from harness.metrics import frechet as module
from harness.metrics.frechet import FrechetReference, frechet, frechet_distance, jackknife
from harness.metrics.moments import ChunkedMoments, Matrix, MomentAccumulator, Moments, chunk_of, merged, moments

RANDOM = np.random.default_rng(0)


def _features(count: int, width: int, seed: int) -> Matrix:
    """Correlated features of different size, far from zero."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(width).normal(size=(width, width)) * np.geomspace(1, 1e-3, width)
    return random.normal(size=(count, width)) @ mixing + 30 + seed


def _theirs(a: Moments, b: Moments) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(clean_fid.frechet_distance(a.mean, a.covariance, b.mean, b.covariance))


def test_moments_are_numpys() -> None:
    features = _features(300, 7, 0)
    found = moments(features)
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-10)
    np.testing.assert_array_equal(found.covariance, found.covariance.T)
    assert found.count == 300


def test_one_feature_has_a_variance() -> None:
    assert moments(np.array([[1.0], [2.0], [6.0]])).covariance.item() == pytest.approx(7)


def test_batches_of_any_size_give_the_same_moments() -> None:
    features, whole = _features(200, 6, 1), moments(_features(200, 6, 1))
    for size in (1, 7, 64, 199):
        gathered = MomentAccumulator(6)
        for start in range(0, 200, size):
            gathered.add(features[start : start + size])
        _same(gathered.moments(), whole)


def test_pieces_merge_in_any_order_and_grouping() -> None:
    features = _features(200, 6, 1)
    pieces = []
    for part in np.split(features, [3, 3, 50, 51, 120]):
        pieces.append(MomentAccumulator(6))
        pieces[-1].add(part)
    whole = moments(features)
    _same(merged(pieces).moments(), whole)
    _same(merged(pieces[::-1]).moments(), whole)
    _same(merged([merged(pieces[:2]), merged([merged(pieces[4:]), merged(pieces[2:4])])]).moments(), whole)


def test_merging_leaves_the_merged_as_they_are() -> None:
    pieces = [MomentAccumulator(3) for _ in range(2)]
    for seed, piece in enumerate(pieces):
        piece.add(_features(10, 3, seed))
    before = [piece.moments() for piece in pieces]
    merged(pieces)
    assert all(piece.moments().equals(kept) for piece, kept in zip(pieces, before, strict=True))


def test_float32_features_far_from_zero_lose_nothing() -> None:
    """A sum of squares minus the square of the sum would lose all digits of this variance."""
    features = np.float32(1000) + RANDOM.integers(0, 2, (4000, 2)).astype(np.float32) / 1024
    gathered = MomentAccumulator(2)
    for part in np.split(features, 40):
        gathered.add(part)
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(gathered.moments().covariance, expected, rtol=1e-9, atol=1e-18)


def test_one_sample_has_no_covariance() -> None:
    gathered = MomentAccumulator(2)
    gathered.add(np.ones((1, 2)))
    with pytest.raises(UserError, match="no covariance"):
        gathered.moments()


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        MomentAccumulator(2).add(np.array([[1.0, np.nan]]))


def test_the_distance_of_a_set_to_itself_is_exactly_zero() -> None:
    for count in (500, 10):
        found = frechet(moments(_features(count, 20, 0)), moments(_features(count, 20, 0)))
        assert (found.value, found.mean, found.covariance) == (0.0, 0.0, 0.0)


def test_the_distance_is_never_negative() -> None:
    features = _features(60, 40, 3)
    found = [frechet_distance(moments(features), moments(features[RANDOM.permutation(60)])) for _ in range(20)]
    assert min(found) >= 0
    assert max(found) < 1e-6 * np.trace(moments(features).covariance)


def test_gaussians_with_diagonal_covariance_have_a_closed_form() -> None:
    a = Moments(9, np.array([0.0, 1.0]), np.diag([4.0, 9.0]))
    b = Moments(9, np.array([3.0, 1.0]), np.diag([1.0, 16.0]))
    found = frechet(a, b)
    assert found.mean == pytest.approx(9)
    assert found.covariance == pytest.approx((2 - 1) ** 2 + (3 - 4) ** 2)
    assert found.value == found.mean + found.covariance


def test_covariances_that_commute_have_a_closed_form_over_ten_orders_of_magnitude() -> None:
    axes, _ = np.linalg.qr(RANDOM.normal(size=(60, 60)))
    one, other = np.geomspace(1e2, 1e-8, 60), np.geomspace(1e-8, 1e2, 60)
    a, b = (Moments(None, np.zeros(60), (axes * spectrum) @ axes.T) for spectrum in (one, other))
    assert frechet_distance(a, b) == pytest.approx(((np.sqrt(one) - np.sqrt(other)) ** 2).sum(), rel=1e-6)


@pytest.mark.parametrize("count", [None, 9])
def test_singular_covariances_are_no_trouble(count: int | None) -> None:
    a = Moments(count, np.zeros(3), np.diag([1.0, 0.0, 0.0]))
    b = Moments(count, np.zeros(3), np.diag([0.0, 1.0, 0.0]))
    none = Moments(count, np.ones(3), np.zeros((3, 3)))
    assert frechet_distance(a, b) == pytest.approx(2)
    assert frechet_distance(a, none) == frechet_distance(none, a) == pytest.approx(4)


@pytest.mark.parametrize(("few", "many"), [(20, 20), (20, 35), (20, 500), (50, 51)])
def test_fewer_samples_than_features_are_no_trouble(few: int, many: int) -> None:
    """Against the definition, in a basis of the space that few samples span, where nothing is singular."""
    a, b = moments(_features(few, 50, 0)), moments(_features(many, 50, 1))
    values, vectors = np.linalg.eigh(a.covariance)
    half = vectors[:, -(few - 1) :] * np.sqrt(values[-(few - 1) :])
    cross = np.sqrt(np.linalg.eigvalsh(half.T @ b.covariance @ half).clip(min=0)).sum()
    gap = ((a.mean - b.mean) ** 2).sum()
    expected = gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-7)


def test_a_feature_that_never_changes_is_no_trouble() -> None:
    a, b = _features(300, 8, 0), _features(300, 8, 1)
    without = frechet_distance(moments(a[:, 1:]), moments(b[:, 1:]))
    a[:, 0] = b[:, 0] = 5
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(without, rel=1e-9)


@pytest.mark.parametrize("width", [1, 12, 90])
def test_the_order_of_two_sets_does_not_matter(width: int) -> None:
    """To rounding, which the roots of the smallest of these eigenvalues enlarge."""
    a, b = moments(_features(400, width, 0)), moments(_features(400, width, 1))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-7)


def test_it_agrees_with_clean_fid_and_torch_fidelity_on_random_features() -> None:
    """To 1e-6: what is left is rounding in their roots of matrices that are not symmetric."""
    a, b = _features(800, 96, 0), _features(700, 96, 1)
    ours = frechet_distance(moments(a), moments(b))
    assert ours == pytest.approx(_theirs(moments(a), moments(b)), rel=1e-6)
    statistics = [fid_features_to_statistics(torch.from_numpy(features)) for features in (a, b)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_it_agrees_with_clean_fid_on_real_digits() -> None:
    """Pixels as features: three of 64 never change, so that both covariances are singular."""
    pixels = load_digits().data
    a, b = moments(pixels[::2]), moments(pixels[1::2])
    assert frechet_distance(a, b) == pytest.approx(_theirs(a, b), rel=1e-6)


def test_a_reference_serves_many_distances() -> None:
    reference = moments(_features(300, 30, 0))
    kept = FrechetReference(reference)
    for count in (300, 12, 400):
        other = moments(_features(count, 30, count))
        assert kept.distance(other).value == pytest.approx(frechet_distance(reference, other), rel=1e-9)


def test_threads_are_bounded_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    take_root = module._root

    def watched(given: Moments) -> module._Root:
        seen.extend([torch.get_num_threads(), *_blas_threads()])
        return take_root(given)

    monkeypatch.setattr(module, "_root", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        frechet(moments(_features(9, 3, 0)), moments(_features(9, 3, 1)), threads=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def _blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_chunks_hold_the_same_images_however_they_come() -> None:
    features = _features(103, 4, 0)
    at_once, piecewise = ChunkedMoments(4), ChunkedMoments(4)
    at_once.add(features, 0)
    for start in (60, 0, 80, 33):
        piecewise.add(features[start : {60: 80, 0: 33, 80: 103, 33: 60}[start]], start)
    for one, other in zip(at_once.chunks, piecewise.chunks, strict=True):
        _same(one.moments(), other.moments())
    _same(at_once.moments(), moments(features))


@pytest.mark.parametrize("labels", ["sorted", "repeating"])
def test_chunks_are_equal_and_have_their_part_of_each_class(labels: str) -> None:
    indices = np.arange(5000)
    of_class = indices // 50 if labels == "sorted" else indices % 100
    chunks = chunk_of(indices, 10)
    assert (np.bincount(chunks) == 500).all()
    counts = np.zeros((10, 100), int)
    np.add.at(counts, (chunks, of_class), 1)
    if labels == "sorted":
        assert (counts == 5).all()
    else:
        assert (counts > 0).sum(axis=0).min() >= 8, "every tenth image would have each class in one chunk alone"


def test_a_jackknife_is_the_textbooks_for_equal_chunks() -> None:
    features, reference = _features(200, 5, 0), moments(_features(2000, 5, 1))
    chunked = ChunkedMoments(5, 4)
    chunked.add(features, 0)
    found = jackknife(chunked.chunks, FrechetReference(reference))
    places = chunk_of(np.arange(200), 4)
    without = np.array([frechet_distance(moments(features[places != each]), reference) for each in range(4)])
    value = frechet_distance(moments(features), reference)
    assert found.value == pytest.approx(value)
    assert found.unbiased == pytest.approx(4 * value - 3 * without.mean())
    assert found.standard_error == pytest.approx(np.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum()), rel=1e-6)
    assert found.chunks == 4


def test_a_jackknife_takes_most_of_the_bias_away_and_knows_its_error() -> None:
    """Against a reference that is exact, of a distribution whose mean is off by 0.3: what is more than that is bias."""
    reference = FrechetReference(Moments(None, np.zeros(12), np.eye(12)))
    found = []
    for seed in range(40):
        chunked = ChunkedMoments(12)
        chunked.add(np.random.default_rng(seed).normal(size=(300, 12)) + 0.3, 0)
        found.append(jackknife(chunked.chunks, reference))
    truth = 12 * 0.3**2
    values, unbiased = np.array([each.value for each in found]), np.array([each.unbiased for each in found])
    assert abs(unbiased.mean() - truth) < abs(values.mean() - truth) / 5
    estimated = np.mean([each.standard_error for each in found])
    assert estimated == pytest.approx(values.std(), rel=0.3)


def test_empty_chunks_do_not_count() -> None:
    chunked = ChunkedMoments(2, 10)
    chunked.add(_features(6, 2, 0), 0)
    assert jackknife(chunked.chunks, FrechetReference(moments(_features(50, 2, 1)))).chunks == 6


def test_the_bench_compares_values_and_times() -> None:
    found = frechet_bench.compare(24, 2)
    assert found.relative_difference < 1e-6
    assert found.faster.least <= found.faster.median <= found.faster.greatest
    assert found.shown()["width"] == 24
    assert "times faster" in found.report()


def test_the_bench_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanfid.fid", None)
    with pytest.raises(UserError, match="pip install clean-fid"):
        frechet_bench.compare(4, 1)


def _same(one: Moments, other: Moments) -> None:
    assert one.count == other.count
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12)
    np.testing.assert_allclose(one.covariance, other.covariance, rtol=1e-9, atol=1e-12)
