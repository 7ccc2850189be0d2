"""Which values may be compared, which may not and why, and how sure a difference is."""

import json
import math
from pathlib import Path

import pytest

from harness.comparability import (
    UNGUIDED,
    Basis,
    Conditions,
    ExtractorIdentity,
    GuidanceUsed,
    Key,
    ReferenceIdentity,
    conditions_of,
    guidance_used,
)
from harness.digits_judge import EXTRACTOR, REFERENCE
from harness.intervals import PUBLISHED_VARIATION, of_one_pair, over_seeds, variation_of
from harness.record_versions import read_record
from tests.builders import quick_config

ROOT = Path(__file__).parent.parent
CONDITIONS = Conditions(num_images=50_000, channels=3, height=256, width=256, labels="balanced", uint8_rule="round")
INCEPTION = ExtractorIdentity(name="inception-clean", version="1", weights_sha256="a" * 64)
VALIDATION = ReferenceIdentity(name="val", sha256="b" * 64, split="validation", num_images=50_000, crop="adm")
KEY = Key(metric="fid", conditions=CONDITIONS, basis=Basis(extractor=INCEPTION, reference=VALIDATION))


def _with(key: Key, **basis: object) -> Key:
    assert key.basis is not None
    return key.model_copy(update={"basis": key.basis.model_copy(update=basis)})


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (_with(KEY, reference=VALIDATION.model_copy(update={"sha256": "c" * 64})), "reference sha256"),
        (_with(KEY, extractor=INCEPTION.model_copy(update={"weights_sha256": "d" * 64})), "extractor weights_sha256"),
        (_with(KEY, guidance=GuidanceUsed(kind="classifier-free", scale=1.5)), "guidance scale: 1.0 here, 1.5 there"),
        (_with(KEY, version=2), "version: 1 here, 2 there"),
        (_with(KEY, settings="k = 5"), "settings"),
        (
            KEY.model_copy(update={"conditions": CONDITIONS.model_copy(update={"labels": "random"})}),
            "labels: balanced here, random there",
        ),
        (
            KEY.model_copy(update={"conditions": CONDITIONS.model_copy(update={"uint8_rule": "truncate-255"})}),
            "uint8_rule: round here, truncate-255 there",
        ),
        (
            KEY.model_copy(update={"conditions": CONDITIONS.model_copy(update={"num_images": 10_000})}),
            "num_images: 50000 here, 10000 there",
        ),
        (KEY.model_copy(update={"basis": None}), "extractor"),
    ],
)
def test_what_forbids_a_comparison_is_said(other: Key, reason: str) -> None:
    assert other.digest != KEY.digest
    assert reason in "; ".join(KEY.differences(other))


def test_what_a_reference_is_called_forbids_nothing() -> None:
    renamed = _with(KEY, reference=VALIDATION.model_copy(update={"name": "imagenet-val"}))
    assert renamed.digest == KEY.digest
    assert KEY.differences(renamed) == []


def test_guidance_that_changes_nothing_is_none(tmp_path: Path) -> None:
    nothing = quick_config(tmp_path, "sit", "none", "protocol.guidance.interval=[0.2,0.3]")
    tuned = quick_config(tmp_path, "sit", "none", "protocol.guidance.scale=1.5", "protocol.guidance.chosen=tuned")
    assert guidance_used(nothing) == UNGUIDED
    assert guidance_used(tuned).words() == "classifier-free 1.5 (tuned)"


def test_the_families_ways_of_guiding_are_told_apart(tmp_path: Path) -> None:
    changes = ("protocol.guidance.scale=4", "protocol.guidance.channels=all")
    first_three, everything = (quick_config(tmp_path, "sit", "none", *changes[:count]) for count in (1, 2))
    assert guidance_used(first_three) != guidance_used(everything)


def test_registers_that_guide_are_compared_with_the_unguided_value_without_them(tmp_path: Path) -> None:
    used = guidance_used(quick_config(tmp_path, "sit", "register-guidance"))
    assert (used.kind, used.registers) == ("none", 1.5)
    nothing = ("registers.guidance.scale=0", "protocol.guidance.scale=2")
    assert guidance_used(quick_config(tmp_path, "sit", "register-guidance", *nothing)).registers == 1.0
    guided = _with(KEY, guidance=used)
    assert guided.digest != KEY.digest
    assert guided.without_register_guidance().digest == KEY.digest
    assert KEY.without_register_guidance() is KEY


def test_conditions_are_those_of_the_configuration(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "none", "protocol.uint8_rule=truncate-255")
    found = conditions_of(config)
    assert (found.task, found.num_images, found.uint8_rule, found.labels) == ("digits", 30, "truncate-255", "balanced")
    assert found != conditions_of(quick_config(tmp_path))
    assert found == conditions_of(quick_config(tmp_path, "dit", "dsr", "protocol.uint8_rule=truncate-255"))


def test_a_record_of_the_first_version_says_in_fields_what_it_said_in_prose() -> None:
    record = read_record(_first_version())
    assert record.schema_version == 2
    assert record.conditions == conditions_of(record.config)
    judged = next(m for m in record.measurements if m.name == "fd_digits")
    assert judged.basis == Basis(extractor=EXTRACTOR, reference=REFERENCE)
    assert (record.circumstances.nfe, record.circumstances.sampler) != (None, "unknown")


def test_a_guided_record_of_the_first_version_stays_guided() -> None:
    old = json.loads(_first_version())
    old["config"]["protocol"]["guidance"] = {"scale": 4.0}
    judged = next(m for m in read_record(json.dumps(old).encode()).measurements if m.name == "fd_digits")
    assert judged.basis is not None
    assert (judged.basis.guidance.kind, judged.basis.guidance.scale) == ("classifier-free", 4.0)


def test_a_judge_that_is_not_known_is_compared_with_none_other() -> None:
    bases = []
    for note in ("features of one", "features of another"):
        old = json.loads(_first_version())
        for measurement in old["measurements"]:
            measurement["note"] = note
        bases.append(next(m.basis for m in read_record(json.dumps(old).encode()).measurements if m.name == "fd_digits"))
    assert bases[0] != bases[1]


def _first_version() -> bytes:
    """A committed record that was written before version 2."""
    contents = (path.read_bytes() for path in sorted((ROOT / "results" / "measured").rglob("*.json")))
    return next(content for content in contents if json.loads(content)["schema_version"] == 1)


def test_intervals_over_seeds_are_students() -> None:
    found = over_seeds(2.0, 1.0, 3)
    assert found is not None
    assert found.half_width == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert found.shows_nothing
    assert over_seeds(2.0, 1.0, 1) is None


def test_one_seed_has_the_published_prior() -> None:
    found = of_one_pair(10.1, 10.0)
    assert found.half_width == pytest.approx(1.959964 * 0.013 * math.hypot(10.1, 10.0), rel=1e-6)
    assert found.shows_nothing
    assert not of_one_pair(4.63, 5.89).shows_nothing


def test_repeated_arms_widen_the_prior_and_never_narrow_it() -> None:
    assert variation_of([]) == PUBLISHED_VARIATION
    assert variation_of([(10.0, 0.001, 5), (3.0, math.nan, 1)]) == PUBLISHED_VARIATION
    assert variation_of([(10.0, 1.0, 3), (20.0, 2.0, 2)]) == pytest.approx(0.1)
