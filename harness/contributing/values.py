"""Which values a measurement can have: its name, unit, direction and bounds (no torch)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from harness.comparability import Conditions
from harness.metric_definitions import OF_PROMPTS, Kind, MetricDefinition, all_definitions, definitions_of
from harness.records import Measurement


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest value that can be, and whether only whole numbers can."""

    least: float = 0.0
    most: float = 1e15
    whole: bool = False


@dataclass(frozen=True)
class Counted:
    """A number of a run that no extractor judged."""

    units: tuple[str, ...]
    better: str
    bounds: Bounds


# Makers' data sheets, of the GPUs that harness.metrics.cost knows.
PEAKS: Final = (312.0, 149.7, 125.0, 121.0, 362.0, 835.0, 989.0, 756.0, 2250.0)

# The last one is that of the first day.
MEMORY: Final = (
    "MiB allocated on the GPU",
    "MiB resident in the process so far",
    "MiB resident in the process",
)

# Unbiased kernel distances lie about 0 where there is no difference.
_JUDGED: Final[Mapping[Kind, Bounds]] = {
    "frechet": Bounds(most=1e9),
    "spatial frechet": Bounds(most=1e9),
    "inception score": Bounds(least=1.0, most=1e5),
    "precision": Bounds(most=1.0),
    "recall": Bounds(most=1.0),
    "kernel distance": Bounds(least=-1.0, most=1e9),
    "cmmd": Bounds(least=-1.0, most=1e6),
    "accuracy": Bounds(most=1.0),
    "right images": Bounds(most=1.0),
    "right prompts": Bounds(most=1.0),
    "clip score": Bounds(most=100.0),
}
_COUNTED: Final[Mapping[str, Counted]] = {
    "parameters": Counted(("parameters",), "lower", Bounds(least=1, whole=True)),
    "trainable_parameters": Counted(("parameters",), "lower", Bounds(whole=True)),
    "gflops": Counted(("GFLOP per forward pass, batch 1, 2 x multiply-adds",), "lower", Bounds(least=1e-9)),
    "nfe": Counted(("forward passes per image",), "lower", Bounds(least=1, whole=True)),
    "gflops_per_image": Counted(("GFLOP for all forward passes of an image",), "lower", Bounds(least=1e-9)),
    "decoder_gflops": Counted(("GFLOP per image, 2 x multiply-adds",), "lower", Bounds()),
    "train_seconds": Counted(("s",), "lower", Bounds(most=1e9)),
    "sampling_seconds": Counted(("s",), "lower", Bounds(most=1e9)),
    "training_images_per_second": Counted(("images/s of wall clock",), "higher", Bounds(most=1e9)),
    "reconstruction_psnr": Counted(("dB",), "higher", Bounds(least=-100.0, most=200.0)),
    "outlier_max_over_median": Counted(("patch median norm",), "neither", Bounds(most=1e12)),
    "peak_memory": Counted(MEMORY, "lower", Bounds(most=1e9)),
    "mfu": Counted(
        tuple(f"of {peak:g} TFLOP/s (dense bf16), 3 x forward operations" for peak in PEAKS), "higher", Bounds(most=1.0)
    ),
}
# What a judged value is made of, by its kind, and whether that can be negative.
_PARTS: Final[Mapping[Kind, Mapping[str, bool]]] = {
    "frechet": {"mean": False, "covariance": True, "unbiased": True},
    "spatial frechet": {"mean": False, "covariance": True, "unbiased": True},
    "kernel distance": {"spread": False},
    "right images": {"low": False, "high": False, "correct": False, "images": False, "chance": False},
    "right prompts": {"low": False, "high": False, "correct": False, "prompts": False},
}
# Several times what 10,000 images leave open; and what is a difference of rounding.
MOST_ERROR, MOST_PART, ROUNDED = 10.0, 1e12, 1e-6
_SETTLED: Final = {definition.name: definition for definition in all_definitions()}
_OF_PROMPTS: Final = {definition.name: definition for definition in OF_PROMPTS}


def is_judged(measurement: Measurement) -> bool:
    """Whether a value says how good images are, and not what a run cost or what its tokens do."""
    return measurement.name not in _COUNTED


def problems_of_measurement(measurement: Measurement, conditions: Conditions) -> Iterator[tuple[str, str]]:
    """Rules that a measurement breaks, and how."""
    name, counted = measurement.name, _COUNTED.get(measurement.name)
    if counted is not None:
        yield from _as_defined(measurement, counted.units, counted.better)
        yield from _within(name, measurement.value, counted.bounds)
        if measurement.parts or measurement.standard_error is not None:
            yield "measurement", f"{name} is counted, and has parts or a standard error"
        return
    definition = _definition(measurement)
    if definition is None:
        yield "measurement", f"{name[:60]!a} is no measurement that is defined here"
        return
    yield from _as_defined(measurement, (definition.unit,), definition.better)
    yield from _within(name, measurement.value, _JUDGED[definition.kind])
    if measurement.basis is None:
        yield "measurement", f"{name} does not say on what basis images were judged"
    # A category's images are a part of all: harness.contributing.deciding_again counts them.
    if measurement.num_images != conditions.num_images and definition.kind not in ("right images", "right prompts"):
        told, due = measurement.num_images, conditions.num_images
        yield "measurement", f"{name} is of {told} images, and the conditions say {due}"
    error, most = measurement.standard_error, MOST_ERROR * (1 + abs(measurement.value))
    if error is not None and not error <= most:
        yield "range", f"{name} is {measurement.value:g}, and has a standard error of {error:g}"
    yield from _parts(measurement, _PARTS.get(definition.kind, {}))


def _parts(measurement: Measurement, known: Mapping[str, bool]) -> Iterator[tuple[str, str]]:
    """What the parts of a value contradict."""
    name, parts = measurement.name, measurement.parts
    for part, value in parts.items():
        if part not in known:
            yield "measurement", f"{name} has no part named {part[:60]!a}"
        elif abs(value) > MOST_PART or (value < 0 and not known[part]):
            yield "range", f"the {part} of {name} cannot be {value:g}"
    if parts.get("chance", 0.0) > 1:
        yield "range", f"the chance of {name} is a share, and cannot be {parts['chance']:g}"
    if {"mean", "covariance"} <= parts.keys():
        together = parts["mean"] + parts["covariance"]
        if abs(together - measurement.value) > ROUNDED * (abs(parts["mean"]) + abs(parts["covariance"]) + 1):
            problem = f"{name} is {measurement.value:.10g}, and its mean and covariance give {together:.10g}"
            yield "range", problem


def _definition(measurement: Measurement) -> MetricDefinition | None:
    """What a name means, of prompts, or in the features that it was measured in."""
    if measurement.name in _OF_PROMPTS:
        return _OF_PROMPTS[measurement.name]
    extractor = measurement.basis.extractor if measurement.basis else None
    if extractor is None:
        return _SETTLED.get(measurement.name)
    return next((each for each in definitions_of(extractor.name) if each.name == measurement.name), None)


def _as_defined(measurement: Measurement, units: tuple[str, ...], better: str) -> Iterator[tuple[str, str]]:
    unit = measurement.unit
    if unit not in units:
        yield "measurement", f"{measurement.name} is measured in {units[0]!a}, not in {unit[:60]!a}"
    if measurement.better != better:
        yield "measurement", f"{measurement.name} is better {better}, not {measurement.better}"


def _within(name: str, value: float, bounds: Bounds) -> Iterator[tuple[str, str]]:
    if not bounds.least <= value <= bounds.most:
        yield "range", f"{name} lies between {bounds.least:g} and {bounds.most:g}, not at {value:g}"
    elif bounds.whole and value != int(value):
        yield "range", f"{name} is counted, and {value!r} is no whole number"
