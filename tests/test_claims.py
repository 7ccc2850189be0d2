"""Published claims against measured runs: alike compared with alike, sure only over seeds, and every row traced."""

import contextlib
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from harness import database, store
from harness.comparability import Basis, GuidanceUsed, conditions_of
from harness.errors import UserError
from harness.evaluation_store import append_evaluation
from harness.intervals import Interval
from harness.published import read_published
from harness.records import Measurement
from harness.resolve import Request, resolve
from harness.spec import RunConfig
from leaderboard.claims import NO_BASE, NO_VALUE, Judgement, judge, judgements, verdict_of
from leaderboard.claims_report import machine_readable, report
from tests.builders import quick_config
from tests.test_store import BASIS, CREATED, make_evaluation, make_record

PROJECT = Path(__file__).parent.parent / "results"
ID = "diffusion-registers-lower-fid-sit"
SEEDS = (0, 1, 2)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder whose `results` has the project's claims and no runs."""
    shutil.copytree(PROJECT / "published", tmp_path / "results" / "published")
    return tmp_path


def _add(place: Path, config: RunConfig, value: float, minutes: int = 0, basis: Basis = BASIS) -> Path:
    """A record of a run whose FD-digits is `value`."""
    record = make_record(config, value, minutes)
    first = record.measurements[0].model_copy(update={"basis": basis})
    measurements = (first, *record.measurements[1:])
    return store.append(place / "results", record.model_copy(update={"measurements": measurements}), None)


def _pairs(place: Path, differences: Sequence[float], basis: Basis = BASIS) -> None:
    """SiT with and without diffusion registers, one pair of runs for each difference."""
    for seed, difference in enumerate(differences):
        _add(place, quick_config(place, "sit", "none", seed=seed), 100.0 + seed)
        _add(place, quick_config(place, "sit", "denoiser", seed=seed), 100.0 + seed + difference, basis=basis)


def _judgement(place: Path, claim: str = ID) -> Judgement:
    _, judgements = judge(place / "results")
    return next(judgement for judgement in judgements if judgement.claim.id == claim)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((-10.0, -11.0, -12.0), "confirmed"),
        ((10.0, 11.0, 12.0), "contradicted"),
        ((-10.0, 11.0, -1.0), "inconclusive"),
        ((-50.0,), "inconclusive"),
    ],
)
def test_a_verdict_needs_an_interval_over_seeds_without_zero(
    place: Path, differences: tuple[float, ...], verdict: str
) -> None:
    _pairs(place, differences)
    (row,) = _judgement(place).rows
    assert (row.verdict, len(row.pairs)) == (verdict, len(differences))


def test_one_seed_shows_the_prior(place: Path) -> None:
    _pairs(place, (-50.0,))
    (row,) = _judgement(place).rows
    assert row.interval is not None
    assert row.interval.method == "prior"
    assert row.interval.half_width == pytest.approx(1.959964 * 0.013 * (100.0**2 + 50.0**2) ** 0.5, rel=1e-5)


def test_nothing_measured_is_not_yet_measured(place: Path) -> None:
    _, judgements = judge(place / "results")
    assert {(judgement.verdict, judgement.rows) for judgement in judgements} == {("not yet measured", ())}


def test_a_small_task_says_nothing_at_the_published_scale(place: Path) -> None:
    _pairs(place, (-10.0, -11.0, -12.0))
    judgement = _judgement(place)
    assert judgement.rows[0].verdict == "confirmed"
    assert judgement.rows[0].below_scale == ("task digits, not imagenet256",)
    assert judgement.verdict == "not yet measured"


def test_mixed_references_are_refused_and_said_why(place: Path) -> None:
    assert BASIS.reference is not None
    other = BASIS.reference.model_copy(update={"name": "half", "sha256": "1" * 64, "split": "half"})
    _pairs(place, (-10.0, -11.0, -12.0), basis=BASIS.model_copy(update={"reference": other}))
    judgement = _judgement(place)
    assert judgement.rows == ()
    assert len(judgement.refused) == 3
    assert "reference split: half here, all there" in judgement.refused[0].reasons


def test_mixed_extractors_are_refused_and_said_why(place: Path) -> None:
    assert BASIS.extractor is not None
    other = BASIS.extractor.model_copy(update={"version": "2"})
    _pairs(place, (-10.0, -11.0, -12.0), basis=BASIS.model_copy(update={"extractor": other}))
    judgement = _judgement(place)
    assert (judgement.rows, len(judgement.refused)) == ((), 3)
    assert judgement.refused[0].reasons == ("extractor version: 2 here, 1 there",)


def test_mixed_label_schemes_are_refused_and_said_why(place: Path) -> None:
    """An evaluation of a run's samples under random labels is no pair of one under balanced labels."""
    for registers, labels in (("none", "balanced"), ("denoiser", "random")):
        config = quick_config(place, "sit", registers)
        record = make_record(config)
        store.append(place / "results", record.model_copy(update={"measurements": record.measurements[2:]}), None)
        _evaluate(place, config, labels, minutes=1)
    judgement = _judgement(place)
    assert judgement.rows == ()
    assert [refusal.reasons for refusal in judgement.refused] == [("labels: random here, balanced there",)]


def test_the_newest_record_of_a_run_counts_not_the_best(place: Path) -> None:
    _pairs(place, (-10.0, -11.0, -12.0))
    _add(place, quick_config(place, "sit", "denoiser", seed=0), 170.0, minutes=1)
    pairs = _judgement(place).rows[0].pairs
    assert sorted(pair.difference for pair in pairs) == [-12.0, -11.0, 70.0]


def test_an_evaluation_of_replaced_samples_no_longer_counts(place: Path) -> None:
    """It had a key that the newer record has no value of."""
    configs = [quick_config(place, "sit", registers) for registers in ("none", "denoiser")]
    for config in configs:
        _add(place, config, 100.0)
        _evaluate(place, config, "random", minutes=1)
    assert [row.mean for row in _judgement(place).rows] == [0.0, 0.0]
    _add(place, configs[1], 80.0, minutes=2)
    assert [row.mean for row in _judgement(place).rows] == [-20.0]
    _evaluate(place, configs[1], "random", minutes=3)
    assert sorted(row.mean for row in _judgement(place).rows) == [-20.0, 0.0]


def test_a_pair_whose_baseline_diverged_is_counted_and_shown(place: Path) -> None:
    _pairs(place, (-10.0, -11.0, -12.0))
    lost = quick_config(place, "sit", "none", seed=1)
    path = _add_without_a_value(place, lost, "diverged", minutes=1)
    judgement = _judgement(place)
    assert [len(row.pairs) for row in judgement.rows] == [2]
    assert [refusal.reasons for refusal in judgement.refused] == [(NO_BASE,)]
    assert [run.run_id for run in judgement.diverged] == [lost.run_id]
    _is_told(place, NO_BASE, str(path.relative_to(place / "results")), "diverged")


def test_a_finished_run_without_a_value_is_counted_and_shown(place: Path) -> None:
    _pairs(place, (-10.0, -11.0, -12.0))
    lost = quick_config(place, "sit", "denoiser", seed=1)
    path = _add_without_a_value(place, lost, "finished", minutes=1)
    judgement = _judgement(place)
    assert [len(row.pairs) for row in judgement.rows] == [2]
    assert [(refusal.run.run_id, refusal.reasons) for refusal in judgement.refused] == [(lost.run_id, (NO_VALUE,))]
    _is_told(place, NO_VALUE, str(path.relative_to(place / "results")), "refused")


def test_a_run_whose_outliers_were_not_probed_is_counted_and_shown(place: Path) -> None:
    _add(place, quick_config(place, "sit", "none", seed=1), 100.0)
    lost = quick_config(place, "sit", "none")
    path = _add_without_a_value(place, lost, "finished")
    judgement = _judgement(place, "rm-no-outliers-sit")
    assert [len(row.pairs) for row in judgement.rows] == [1]
    assert [(refusal.run.run_id, refusal.base_run) for refusal in judgement.refused] == [(lost.run_id, None)]
    _is_told(place, NO_VALUE, str(path.relative_to(place / "results")), "refused")


def test_guidance_by_registers_is_compared_with_the_unguided_baseline(place: Path) -> None:
    """The value with it and the one without are rows of their own, under their own titles."""
    guided = BASIS.model_copy(update={"guidance": GuidanceUsed(registers=1.5)})
    for seed in SEEDS:
        _add(place, quick_config(place, "jit", "none", seed=seed), 100.0)
        record = make_record(quick_config(place, "jit", "register-guidance", seed=seed), 95.0 + seed)
        stronger = record.measurements[0].model_copy(update={"basis": guided, "value": 90.0 + seed})
        measurements = (stronger, *record.measurements)
        store.append(place / "results", record.model_copy(update={"measurements": measurements}), None)
    judgement = _judgement(place, "rm-register-guidance-helps")
    assert judgement.refused == ()
    assert {row.title.removeprefix("fd_digits "): row.mean for row in judgement.rows} == {
        BASIS.words(): -4.0,
        guided.words(): -9.0,
    }


def test_runs_are_paired_with_their_own_seed_alone(place: Path) -> None:
    _add(place, quick_config(place, "sit", "none", seed=0), 100.0)
    _add(place, quick_config(place, "sit", "denoiser", seed=1), 50.0)
    judgement = _judgement(place)
    assert judgement.rows == ()
    assert [run.seed for run in judgement.unmatched] == [1]


def test_dual_stage_without_an_encoder_stage_is_the_denoiser_stage(place: Path) -> None:
    for seed in SEEDS:
        _add(place, quick_config(place, "sit", "none", seed=seed), 100.0 + seed)
        _add(place, quick_config(place, "sit", "dsr", seed=seed), 90.0 + seed**2)
    assert [(row.arm, row.verdict) for row in _judgement(place).rows] == [("denoiser", "confirmed")]


def test_stand_in_latents_say_nothing_of_representations(place: Path) -> None:
    for registers in ("none", "denoiser"):
        _add(place, quick_config(place, "rae-dit", registers), 100.0)
    judgement = _judgement(place, "diffusion-registers-lower-fid-rae")
    assert (judgement.rows, len(judgement.set_aside)) == ((), 1)


def test_arms_that_are_equal_to_the_last_digit_confirm_nothing(place: Path) -> None:
    """A mask that masked nothing is no evidence that masking does not help."""
    for seed, registers in itertools.product(SEEDS, ("none", "loss-mask")):
        _add(place, quick_config(place, "sit", registers, seed=seed), 100.0)
    (row,) = _judgement(place, "loss-masking-does-not-help").rows
    assert row.changed_nothing
    assert row.verdict == "inconclusive"


def test_no_help_is_no_gain_beyond_what_seeds_differ_by(place: Path) -> None:
    for seed in SEEDS:
        _add(place, quick_config(place, "sit", "none", seed=seed), 100.0)
        _add(place, quick_config(place, "sit", "loss-mask", seed=seed), 99.8 + seed / 10)
    (row,) = _judgement(place, "loss-masking-does-not-help").rows
    assert row.bounds[0] == pytest.approx(-1.3)
    assert row.verdict == "confirmed"


def test_claims_about_outliers_compare_a_level_with_a_threshold(place: Path) -> None:
    _pairs(place, (-10.0, -11.0, -12.0))
    (row,) = _judgement(place, "rm-no-outliers-sit").rows
    assert (row.mean, row.against, row.bounds, row.verdict) == (1.5, "", (None, 5.0), "confirmed")


def test_the_published_scale_is_its_task_backbone_and_length(place: Path) -> None:
    _confirm_the_reference(place, "digits", "all")
    for seed, (registers, value) in itertools.product(SEEDS, (("none", 16.0), ("denoiser", 14.0))):
        config = _published_scale(registers, seed)
        _add_fid(place, config, value + seed / 10 * value)
        short = config.recipe.model_copy(update={"steps": config.recipe.steps // 10})
        _add_fid(place, config.model_copy(update={"recipe": short}), 30.0 + (seed - 1) * value)
    judgement = _judgement(place)
    by_scale = {row.below_scale: row.verdict for row in judgement.rows}
    assert by_scale == {(): "confirmed", ("8 epochs, not 80",): "inconclusive"}
    assert judgement.verdict == "confirmed"


@pytest.mark.parametrize(
    ("confirmed", "said"),
    [
        (None, "the published reference is not confirmed (imagenet-val-package-correct-no-transform.npz)"),
        (("imagenet-val", "all"), "the published reference is imagenet-val.npz (split all)"),
        (("digits", "val"), "the published reference is digits.npz (split val)"),
    ],
)
def test_nothing_follows_against_another_reference(place: Path, confirmed: tuple[str, str] | None, said: str) -> None:
    if confirmed:
        _confirm_the_reference(place, *confirmed)
    for seed, (registers, value) in itertools.product(SEEDS, (("none", 16.0), ("denoiser", 14.0))):
        _add_fid(place, _published_scale(registers, seed), value + seed / 10 * value)
    judgement = _judgement(place)
    (row,) = judgement.rows
    assert (row.verdict, row.below_scale, judgement.verdict) == ("confirmed", (), "inconclusive")
    assert row.another_reference == f"against digits (split all); {said}"
    assert row.another_reference in report(*judge(place / "results"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("registers.denoiser.start_block=10", "registers from block 10 of 28, not 8"),
        ("registers.denoiser.count=32", "32 registers, not 36"),
    ],
)
def test_other_registers_are_not_as_published(place: Path, change: str, said: str) -> None:
    _add_fid(place, _published_scale("none", 0), 16.0)
    _add_fid(place, _published_scale("denoiser", 0, change), 14.0)
    judgement = _judgement(place)
    assert [row.below_scale for row in judgement.rows] == [(said,)]
    assert judgement.verdict == "not yet measured"


def test_the_published_mask_is_the_one_with_the_published_threshold(place: Path) -> None:
    for registers in ("none", "loss-mask", "loss-mask-paper"):
        _add_fid(place, _published_scale(registers, 0, backbone="rae-dit-xl"), 6.0)
    rows = _judgement(place, "loss-masking-does-not-help").rows
    assert {row.arm: row.below_scale for row in rows} == {
        "loss-mask": ("loss-mask, not loss-mask-paper",),
        "loss-mask-paper": (),
    }


def test_a_treatment_with_settings_of_ours_is_not_as_published(place: Path) -> None:
    for registers in ("none", "clamp"):
        _add_fid(place, _published_scale(registers, 0, backbone="rae-dit-xl"), 6.0)
    (row,) = _judgement(place, "clamping-does-not-help").rows
    assert row.below_scale == ("no preset of ours is known to be the published treatment",)


def test_rows_that_disagree_conclude_nothing(place: Path) -> None:
    _confirm_the_reference(place, "digits", "all")
    for seed, (registers, value) in itertools.product(SEEDS, (("none", 16.0), ("denoiser", 14.0))):
        _add_fid(place, _published_scale(registers, seed), value + seed**2 / 100 * value)
    for seed, (registers, value) in itertools.product(SEEDS, (("none", 16.0), ("denoiser", 18.0))):
        config = _published_scale(registers, seed)
        longer = config.recipe.model_copy(update={"steps": 2 * config.recipe.steps})
        _add_fid(place, config.model_copy(update={"recipe": longer}), value + seed**2 / 100 * value)
    judgement = _judgement(place)
    assert {row.verdict for row in judgement.rows} == {"confirmed", "contradicted"}
    assert judgement.verdict == "inconclusive"


def test_intervals_that_touch_a_bound_are_inconclusive() -> None:
    assert verdict_of(Interval(-1.0, 1.0, 3, "seeds"), None, 0.0) == "inconclusive"
    assert verdict_of(Interval(-1.0, 0.5, 3, "seeds"), None, 0.0) == "confirmed"
    assert verdict_of(Interval(0.2, 0.1, 3, "seeds"), 0.09, 0.115) == "inconclusive"
    assert verdict_of(Interval(0.2, 0.05, 3, "seeds"), 0.09, 0.115) == "contradicted"


def test_every_row_of_the_table_traces_to_its_records(place: Path) -> None:
    _pairs(place, (-10.0, -11.0, -12.0))
    published, judgements = judge(place / "results")
    text = report(published, judgements)
    data = json.loads(json.dumps(machine_readable(published, judgements)))
    rows = [row for claim in data["claims"] for row in claim["rows"]]
    assert rows
    for row in rows:
        for pair in row["pairs"]:
            for side in filter(None, (pair["run"], pair["baseline"])):
                assert (place / "results" / side["path"]).is_file()
                assert side["path"] in text
    table = text.split("\n\n", maxsplit=1)[0].splitlines()
    assert len(table) == 1 + sum(max(len(claim["rows"]), 1) for claim in data["claims"])
    last_column = table[0].index("records")
    assert {line[last_column:] for line in table[1:]} - {"-"} == {f"[{number}]" for number in range(1, len(rows) + 1)}


def test_quoted_figures_are_shown_as_quoted(place: Path) -> None:
    published, judgements = judge(place / "results")
    text = report(published, judgements)
    assert "fid 16.05 (dsr/vae-sit-xl/none/fid)" in text
    assert "fid 5.89 (dsr/rae-dit-xl-siglip2-b/none/80ep/fid, unconfirmed)" in text
    (claim,) = [each for each in machine_readable(published, judgements)["claims"] if each["id"] == ID]
    assert {figure["status"] for figure in claim["figures"]} == {"quoted"}


def test_an_open_database_is_judged_as_it_is(place: Path) -> None:
    """Neither built anew nor read again: the board judges what it shows."""
    _pairs(place, (-10.0, -11.0, -12.0))
    before = judge(place / "results")
    with contextlib.closing(database.snapshot(place / "results" / database.DATABASE)) as opened:
        _add(place, quick_config(place, "sit", "denoiser", seed=0), 170.0, minutes=1)
        now = judgements(opened)
    assert machine_readable(*now) == machine_readable(*before)
    assert machine_readable(*judge(place / "results")) != machine_readable(*before)


def test_what_is_edited_after_the_database_was_built_does_not_count_yet(place: Path) -> None:
    _pairs(place, (-10.0, -11.0, -12.0))
    published, judged = judge(place / "results")
    from_files = read_published(place / "results")
    assert published.claims == from_files.claims
    assert published.figures == from_files.figures
    (place / "results" / "published" / "claims.json").write_text("{}")
    with contextlib.closing(database.snapshot(place / "results" / database.DATABASE)) as opened:
        assert machine_readable(*judgements(opened)) == machine_readable(published, judged)
    with pytest.raises(UserError, match=r"no claims in published/claims\.json \("):
        judge(place / "results")


def test_a_folder_without_claims_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no claims"):
        judge(tmp_path)


def _evaluate(place: Path, config: RunConfig, labels: str, minutes: int) -> None:
    """A record of an evaluation of a run's samples, under a label scheme, which gave 9."""
    conditions = conditions_of(config).model_copy(update={"labels": labels})
    changes = {"created": CREATED + timedelta(minutes=minutes)}
    append_evaluation(place / "results", make_evaluation(config, conditions).model_copy(update=changes))


def _add_without_a_value(place: Path, config: RunConfig, status: str, minutes: int = 0) -> Path:
    """A record of a run that gave nothing but what it costs."""
    record = make_record(config, minutes=minutes)
    lost = record.model_copy(update={"status": status, "measurements": record.measurements[3:]})
    return store.append(place / "results", lost, None)


def _is_told(place: Path, reason: str, path: str, heading: str) -> None:
    """A reason and a path are in the text, and the path is under a heading of the plain data."""
    published, judgements = judge(place / "results")
    text = report(published, judgements)
    assert [part for part in (reason, path) if part not in text] == []
    assert any(path in json.dumps(claim[heading]) for claim in machine_readable(published, judgements)["claims"])


def _confirm_the_reference(place: Path, name: str, split: str) -> None:
    """Say that DSR's figures are against `name`.npz, for certain."""
    path = place / "results" / "published" / "dsr-2605.05206.json"
    source = json.loads(path.read_text())
    for figure in source["figures"]:
        figure |= {"reference": f"{name}.npz", "reference_split": split, "reference_confirmed": True}
    path.write_text(json.dumps(source))


def _published_scale(registers: str, seed: int, *changes: str, backbone: str = "sit-xl-2") -> RunConfig:
    """A network on a description of ImageNet, trained for 80 epochs of its official batch size."""
    request = Request(backbone, registers, "imagenet256", seed=seed, changes=changes)
    batch_size = resolve(request, needs_data=False).recipe.batch_size
    steps = f"recipe.steps={80 * 1_281_167 // batch_size}"
    return resolve(replace(request, changes=(steps, *changes)), needs_data=False)


def _add_fid(place: Path, config: RunConfig, value: float) -> None:
    fid = Measurement(name="fid", value=value, unit="distance", better="lower", num_images=50_000, basis=BASIS)
    record = make_record(config).model_copy(update={"measurements": (fid,)})
    store.append(place / "results", record, None)
