"""Numbers that cannot be, or that the run cannot have given."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.submissions.broken_files import Case
from tests.submissions.folder import Fields, Folder, edited, measurement, submitted


def _value(name: str, value: float) -> Callable[[Folder], object]:
    return _measurement(name, value=value)


def _measurement(name: str, /, **changes: Any) -> Callable[[Folder], object]:
    return lambda folder: edited(folder.none, lambda fields: measurement(fields, name).update(changes))


def _fields(change: Callable[[Fields], object]) -> Callable[[Folder], object]:
    return lambda folder: edited(folder.none, change)


def _created(when: str) -> Callable[[Folder], object]:
    return lambda folder: submitted(folder.new, lambda fields: fields.update(created=when))


def _outliers(**changes: Any) -> Callable[[Folder], object]:
    return _fields(lambda fields: fields["outliers"][0].update(changes))


def _twice(fields: Fields) -> None:
    fields["measurements"].append(dict(measurement(fields, "fd_digits"), value=1.0))


def _diverged(fields: Fields) -> None:
    fields.update(status="diverged", diverged_at_step=3)


def _unguided(fields: Fields) -> None:
    measurement(fields, "fd_digits")["basis"]["guidance"].update(kind="classifier-free", scale=1.5)


def _better_by_a_hair(fields: Fields) -> None:
    judged = measurement(fields, "fd_digits")
    judged["value"] *= 0.999


_TOMORROW = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"

CASES: dict[str, Case] = {
    "tomorrow": ("date", "in the future", _created(_TOMORROW)),
    "the last century": ("date", "before the project began", _created("1999-12-31T00:00:00Z")),
    "a time without a zone": (
        "name",
        "does not begin with when",
        _fields(lambda f: f.update(created=f["created"][:-1])),
    ),
    "an accuracy above one": ("range", "between 0 and 1", _value("digits_accuracy", 1.2)),
    "a precision below zero": ("range", "between 0 and 1", _value("precision_digits", -0.1)),
    "a negative distance": ("range", "fd_digits lies between 0", _value("fd_digits", -3.0)),
    "a distance beyond all": ("range", "fd_digits lies between 0", _value("fd_digits", 1e300)),
    "half a parameter": ("range", "no whole number", _value("parameters", 20248.5)),
    "no time at all": ("range", "train_seconds lies between", _value("train_seconds", -1.0)),
    "a metric of its own": (
        "measurement",
        "no measurement that is defined",
        _measurement("fd_digits", name="fid_best"),
    ),
    "a metric that looks like ours": ("measurement", "no measurement", _measurement("fd_digits", name="f\u0456d")),
    "another unit": ("measurement", "is measured in", _measurement("fd_digits", unit="percent")),
    "another direction": ("measurement", "is better lower", _measurement("fd_digits", better="higher")),
    "other images": ("measurement", "images, and the conditions say", _measurement("fd_digits", num_images=50_000)),
    "no basis": ("measurement", "on what basis", _measurement("fd_digits", basis=None)),
    "a metric that stands twice": ("measurement", "2 times under the same key", _fields(_twice)),
    "guidance that was none": ("conditions", "says guidance", _fields(_unguided)),
    "more above five than above three": (
        "outliers",
        "share_above_5x is",
        _outliers(share_above_3x=0.1, share_above_5x=0.2),
    ),
    "a largest norm below the median": ("outliers", "below one", _outliers(max_over_median=0.5)),
    "a noise level that was not probed": ("outliers", "no such noise level", _outliers(time=0.123)),
    "attention above one": ("outliers", "adds up to", _outliers(attention_patches=1.0, attention_native=0.5)),
    "statistics that stand twice": (
        "outliers",
        "statistics twice",
        _fields(lambda fields: fields["outliers"].append(fields["outliers"][0])),
    ),
    "fewer outliers than there are": ("outliers", "the statistics reach", _value("outlier_max_over_median", 1.0)),
    "a curve that goes back": ("curve", "do not ascend", _fields(lambda f: f["loss_curve"].reverse())),
    "a curve beyond the training": (
        "curve",
        "of a training of",
        _fields(lambda f: f["loss_curve"].append([10_000, 0.1])),
    ),
    "a loss below zero": ("curve", "below 0", _fields(lambda f: f["loss_curve"].__setitem__(0, [1, -5.0]))),
    "a divergence with values": ("status", "it diverged, and has", _fields(_diverged)),
    "an end without values": (
        "status",
        "it finished, and lacks",
        _fields(lambda f: f.update(measurements=[m for m in f["measurements"] if m["name"] != "fd_digits"])),
    ),
    "an end that diverged": ("status", "it finished, and diverged", _fields(lambda f: f.update(diverged_at_step=3))),
    "fewer parameters": ("cost", "parameters is 19000", _value("parameters", 19000.0)),
    "fewer GFLOPs": ("cost", "gflops is", _value("gflops", 0.0001)),
    "fewer forward passes": ("cost", "nfe is 1", _value("nfe", 1.0)),
    "circumstances with fewer passes": ("cost", "say nfe 1", _fields(lambda f: f["circumstances"].update(nfe=1))),
    "no parameters": (
        "cost",
        "does not say parameters",
        _fields(lambda f: f.update(measurements=[m for m in f["measurements"] if m["name"] != "parameters"])),
    ),
    "a distance that its moments do not give": ("distance", "its moments give", _fields(_better_by_a_hair)),
}
