"""Numbers that cannot be, or that the run cannot have given."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.submissions.broken_files import Case
from tests.submissions.folder import ENDINGS, Fields, Folder, edited, measurement, otherwise_made, submitted


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


def _off_by_a_thousandth(fields: Fields) -> None:
    judged = measurement(fields, "fd_digits")
    judged["value"] += 1e-3
    judged["parts"]["mean"] += 1e-3


def _added(like: str, **changes: Any) -> Callable[[Folder], object]:
    return _fields(lambda fields: fields["measurements"].append({**measurement(fields, like), **changes}))


def _without(name: str) -> Callable[[Folder], object]:
    return _fields(lambda f: f.update(measurements=[each for each in f["measurements"] if each["name"] != name]))


def _other_seed(change: Callable[[Fields], object]) -> Callable[[Folder], object]:
    """A run of another seed that came with its record alone, and what else was done to it."""

    def spoil(folder: Folder) -> None:
        def changed(fields: Fields) -> None:
            fields["config"]["seed"] = 99
            fields.update(samples=None, moments=None, norm_maps=None)
            change(fields)

        path = submitted(folder.none, changed, moved=False)
        for ending in ENDINGS[1:]:
            path.with_name(path.stem + ending).unlink(missing_ok=True)

    return spoil


def _nudged(*names: str) -> Callable[[Folder], object]:
    def change(fields: Fields) -> None:
        told = {name: measurement(fields, name)["value"] * (1 + 1e-10) for name in names}
        otherwise_made(fields)
        for name, value in told.items():
            measurement(fields, name)["value"] = value

    return _other_seed(change)


def _only_the_distance(fields: Fields) -> None:
    kept = measurement(fields, "fd_digits")["value"]
    otherwise_made(fields)
    measurement(fields, "fd_digits")["value"] = kept
    fields["measurements"].remove(measurement(fields, "kd_digits"))


def _with_the_curve(fields: Fields) -> None:
    kept = fields["loss_curve"]
    otherwise_made(fields)
    fields["loss_curve"] = kept


def _second_changed(folder: Folder) -> None:
    def change(fields: Fields) -> None:
        fields["created"] = "2026-11-21T15:00:00Z"
        measurement(fields, "train_seconds")["value"] += 1.0

    submitted(folder.new, change, moved=False)


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
    "a distance that is off by a thousandth": ("distance", "its moments give", _fields(_off_by_a_thousandth)),
    "a block that the network has not": (
        "outliers",
        "the network has",
        _fields(lambda f: f["outliers"][-1].update(block=999)),
    ),
    "outliers of no block": ("outliers", "the statistics reach absent", _fields(lambda f: f.update(outliers=[]))),
    "a standard error beyond all": ("range", "a standard error of", _measurement("fd_digits", standard_error=1e300)),
    "a part beyond all": (
        "range",
        "the mean of fd_digits cannot be",
        _fields(lambda f: measurement(f, "fd_digits")["parts"].update(mean=1e300)),
    ),
    "parts that do not add up": (
        "range",
        "its mean and covariance give",
        _fields(lambda f: measurement(f, "fd_digits")["parts"].update(mean=0.5)),
    ),
    "a part of its own": ("measurement", "no part named", _measurement("fd_digits", parts={"luck": 1.0})),
    "parts of a count": ("measurement", "is counted, and has parts", _measurement("nfe", parts={"mean": 1.0})),
    "a decoder's operations without a decoder": (
        "cost",
        "no network decodes",
        _added("gflops", name="decoder_gflops", unit="GFLOP per image, 2 x multiply-adds"),
    ),
    "a decoder that pixels have not": (
        "conditions",
        "name a decoder",
        _fields(lambda f: f["circumstances"].update(decoder_sha256="e" * 64)),
    ),
    "a share of anything": ("measurement", "is measured in", _added("nfe", name="mfu", unit="of anything <3")),
    "a share of a processor's peak": (
        "measurement",
        "has no known peak",
        _added(
            "nfe",
            name="mfu",
            unit="of 312 TFLOP/s (dense bf16), 3 x forward operations",
            better="higher",
            value=0.5,
        ),
    ),
    "no forward passes": ("cost", "does not say nfe", _without("nfe")),
    "no trained parameters": ("cost", "does not say trainable_parameters", _without("trainable_parameters")),
    "no operations of an image": ("cost", "does not say gflops_per_image", _without("gflops_per_image")),
    "another seed's values, nearly": ("duplicate", "to 8 digits", _nudged("fd_digits", "kd_digits")),
    "another seed's distance alone": ("duplicate", "to 8 digits", _other_seed(_only_the_distance)),
    "another seed's loss curve": ("duplicate", "loss curve", _other_seed(_with_the_curve)),
    "a run once more, and one second changed": ("duplicate", "as long as", _second_changed),
    "a distance that its moments do not give": ("distance", "its moments give", _fields(_better_by_a_hair)),
}
