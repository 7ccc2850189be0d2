"""Which values a measurement can have: its name, unit, direction and bounds (no torch)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from harness.comparability import Conditions
from harness.metric_definitions import Kind, MetricDefinition, all_definitions, definitions_of
from harness.records import Measurement


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest value that can be, and whether only whole numbers can."""

    least: float = 0.0
    most: float = 1e15
    whole: bool = False


@dataclass(frozen=True)
class Counted:
    """A number of a run that no extractor judged.  `units` are how a unit begins: some name a device."""

    units: tuple[str, ...]
    better: str
    bounds: Bounds


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
    "peak_memory": Counted(("MiB ",), "lower", Bounds(most=1e9)),
    "mfu": Counted(("of ",), "higher", Bounds(most=1.0)),
}
_SETTLED: Final = {definition.name: definition for definition in all_definitions()}


def is_judged(measurement: Measurement) -> bool:
    """Whether a value says how good images are, and not what a run cost or what its tokens do."""
    return measurement.name not in _COUNTED


def problems_of_measurement(measurement: Measurement, conditions: Conditions) -> Iterator[tuple[str, str]]:
    """Rules that a measurement breaks, and how."""
    name, counted = measurement.name, _COUNTED.get(measurement.name)
    if counted is not None:
        yield from _as_defined(measurement, counted.units, counted.better)
        yield from _within(name, measurement.value, counted.bounds)
        return
    definition = _definition(measurement)
    if definition is None:
        yield "measurement", f"{name[:60]!a} is no measurement that is defined here"
        return
    yield from _as_defined(measurement, (definition.unit,), definition.better)
    yield from _within(name, measurement.value, _JUDGED[definition.kind])
    if measurement.basis is None:
        yield "measurement", f"{name} does not say on what basis images were judged"
    if measurement.num_images != conditions.num_images:
        told, due = measurement.num_images, conditions.num_images
        yield "measurement", f"{name} is of {told} images, and the conditions say {due}"
    if measurement.standard_error is not None and not math.isfinite(measurement.standard_error):
        yield "range", f"{name} has a standard error that is no number"


def _definition(measurement: Measurement) -> MetricDefinition | None:
    """What a name means in the features that it was measured in."""
    extractor = measurement.basis.extractor if measurement.basis else None
    if extractor is None:
        return _SETTLED.get(measurement.name)
    return next((each for each in definitions_of(extractor.name) if each.name == measurement.name), None)


def _as_defined(measurement: Measurement, units: tuple[str, ...], better: str) -> Iterator[tuple[str, str]]:
    unit = measurement.unit
    if not any(unit == known or (known.endswith(" ") and unit.startswith(known)) for known in units):
        yield "measurement", f"{measurement.name} is measured in {units[0].strip()!a}, not in {unit[:60]!a}"
    if measurement.better != better:
        yield "measurement", f"{measurement.name} is better {better}, not {measurement.better}"


def _within(name: str, value: float, bounds: Bounds) -> Iterator[tuple[str, str]]:
    if not bounds.least <= value <= bounds.most:
        yield "range", f"{name} lies between {bounds.least:g} and {bounds.most:g}, not at {value:g}"
    elif bounds.whole and value != int(value):
        yield "range", f"{name} is counted, and {value!r} is no whole number"
