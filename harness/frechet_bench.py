"""What the Fréchet distance takes in time: ours against clean-fid's, on the same moments, in turns."""

import importlib
import importlib.metadata
import statistics
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.bench import Ratio, in_turns, ratio_of
from harness.bench_records import BenchCase
from harness.errors import UserError
from harness.metrics.frechet import MOST_THREADS, frechet_distance
from harness.metrics.moments import Moments, moments
from harness.records import Measurement

SAMPLES_PER_FEATURE = 2


@dataclass(frozen=True)
class FrechetSpeed:
    """Median seconds of one distance, theirs over ours pair by pair, and |ours - theirs| / theirs."""

    width: int
    pairs: int
    threads: int
    version: str
    seconds: float
    seconds_of_clean_fid: float
    faster: Ratio
    relative_difference: float

    def shown(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)

    def case(self) -> BenchCase:
        """For a record."""
        seconds = {"frechet_distance": self.seconds, "clean_fid": self.seconds_of_clean_fid}
        return BenchCase(
            title=f"Fréchet distance of {self.width} features, against clean-fid {self.version}",
            measurements=(
                *(Measurement(name=name, value=value, unit="s", better="lower") for name, value in seconds.items()),
                Measurement(name="clean_fid_over_ours", value=self.faster.median, unit="ratio", better="higher"),
            ),
        )

    def report(self) -> str:
        """For a person."""
        return (
            f"Fréchet distance of {self.width} features, at most {self.threads} threads: {self.seconds:.2f} s here, "
            f"{self.seconds_of_clean_fid:.2f} s in clean-fid {self.version}\n"
            f"{self.faster} times faster, median (least to greatest) of {self.pairs} pairs in turns; "
            f"relative difference of the values {self.relative_difference:.1e}"
        )


def compare(width: int, pairs: int) -> FrechetSpeed:
    """Time both on random moments of `width` features, in one process, the order changing each time.

    Nothing is kept between distances.  Raises UserError where clean-fid is not installed.
    """
    version, theirs = _clean_fid()
    a, b = (_random_moments(width, seed) for seed in range(2))
    values: dict[str, float] = {}

    def ours_once() -> None:
        values["ours"] = frechet_distance(a, b)

    def theirs_once() -> None:
        values["theirs"] = theirs(a.mean, a.covariance, b.mean, b.covariance)

    seconds = in_turns([ours_once, theirs_once], pairs, f"Fréchet distance of {width} features")
    return FrechetSpeed(
        width=width,
        pairs=pairs,
        threads=MOST_THREADS,
        version=version,
        seconds=statistics.median(ours for ours, _ in seconds),
        seconds_of_clean_fid=statistics.median(theirs for _, theirs in seconds),
        faster=ratio_of(seconds),
        relative_difference=abs(values["ours"] - values["theirs"]) / values["theirs"],
    )


def _clean_fid() -> tuple[str, Callable[..., float]]:
    try:
        package = importlib.import_module("cleanfid.fid")
    except ImportError as error:
        raise UserError(
            "clean-fid is not installed, and the comparison is with its Fréchet distance",
            "pip install clean-fid",
        ) from error

    def distance(*moments: Any) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return float(package.frechet_distance(*moments))

    return importlib.metadata.version("clean-fid"), distance


def _random_moments(width: int, seed: int) -> Moments:
    """Positive features that are correlated and of very different size, as an Inception network's are."""
    random = np.random.default_rng(seed)
    samples = SAMPLES_PER_FEATURE * width
    shared = random.standard_normal((samples, 64)) @ random.standard_normal((64, width)) / 8
    scale = np.exp(np.random.default_rng(width).normal(-1, 1, width))
    return moments(np.abs(random.standard_normal((samples, width)) + shared) * scale)
