"""What feature extraction takes in time: images a second through an extractor."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.bench import Timing, repeated
from harness.bench_records import BenchCase
from harness.extractor import Extractor
from harness.extractors import TIMM, find
from harness.machine import name_of, start
from harness.open_extractor import DIGITS_SHAPE, open_extractor


@dataclass(frozen=True)
class FeatureSpeed:
    """Seconds of `images` through an extractor, preparation of the images included."""

    extractor: str
    device: str
    images: int
    image_size: int
    repeats: int
    seconds: Timing

    def shown(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self) | {"images_per_second": self.seconds.per_second(self.images).model_dump()}

    def report(self) -> str:
        """For a person."""
        speed = self.seconds.per_second(self.images)
        return (
            f"{self.extractor} on {self.device}: {speed.median:.4g} images of {self.image_size} x {self.image_size} a "
            f"second ({speed.first_quartile:.4g} to {speed.third_quartile:.4g})\n"
            f"median (first to third quartile) of {self.repeats} times {self.images} images, after a warm-up"
        )

    def case(self) -> BenchCase:
        """For a record."""
        return BenchCase(
            title=f"{self.extractor}, images of {self.image_size} x {self.image_size}",
            batch=self.images,
            precision="float32",
            images_per_second=self.seconds.per_second(self.images),
        )


@dataclass(frozen=True)
class Looking:
    """Which extractor looks, with which weights (None: the published ones), at how many images of which side."""

    extractor: str
    weights: str | None
    images: int
    image_size: int


def feature_speed(looking: Looking, device: str, threads: int, repeats: int) -> FeatureSpeed:
    """Time an extractor on random images of 8 bits.

    A model of timm's has random weights where none are given, which do not change the time; digits are 8 x 8.
    Raises UserError for an extractor that nobody knows, or whose weights are not here.
    """
    place = start(device, threads)
    extractor = _open(looking, place)
    is_digits = find(looking.extractor).family == "digits"
    shape = DIGITS_SHAPE if is_digits else (3, looking.image_size, looking.image_size)
    pixels_NCHW = np.random.default_rng(0).integers(0, 256, (looking.images, *shape), dtype=np.uint8)

    def look() -> None:
        extractor.extract(pixels_NCHW)

    seconds = Timing.of(repeated(look, repeats, f"{looking.extractor} features"))
    return FeatureSpeed(looking.extractor, name_of(place), looking.images, shape[-1], repeats, seconds)


def _open(looking: Looking, device: torch.device) -> Extractor:
    if looking.weights is not None or find(looking.extractor).family != "timm":
        return open_extractor(looking.extractor, looking.weights, device)
    import timm
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory(prefix="dsr-bench-") as place:
        file = Path(place) / "random.safetensors"
        network: Any = timm.create_model(looking.extractor.removeprefix(TIMM), pretrained=False)
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
        return open_extractor(looking.extractor, str(file), device)
