"""Published claims against measured runs: alike compared with alike, sure only over seeds, and every row traced."""

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import store
from harness.comparability import Basis, conditions_of
from harness.errors import UserError
from harness.evaluation_store import append_evaluation
from harness.intervals import Interval
from harness.records import Measurement
from harness.resolve import Request, resolve
from harness.spec import RunConfig
from leaderboard.claims import Judgement, judge, verdict_of
from leaderboard.claims_report import machine_readable, report
from tests.builders import quick_config
from tests.test_store import BASIS, make_evaluation, make_record

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
        _evaluate(place, config, labels)
    judgement = _judgement(place)
    assert judgement.rows == ()
    assert [refusal.reasons for refusal in judgement.refused] == [("labels: random here, balanced there",)]


def test_the_newest_record_of_a_run_counts_not_the_best(place: Path) -> None:
    _pairs(place, (-10.0, -11.0, -12.0))
    _add(place, quick_config(place, "sit", "denoiser", seed=0), 170.0, minutes=1)
    pairs = _judgement(place).rows[0].pairs
    assert sorted(pair.difference for pair in pairs) == [-12.0, -11.0, 70.0]


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
    for seed, (registers, value) in itertools.product(SEEDS, (("none", 16.0), ("denoiser", 14.0))):
        config = _published_scale(registers, seed)
        _add_fid(place, config, value + seed / 10 * value)
        short = config.recipe.model_copy(update={"steps": config.recipe.steps // 10})
        _add_fid(place, config.model_copy(update={"recipe": short}), 30.0 + (seed - 1) * value)
    judgement = _judgement(place)
    by_scale = {row.below_scale: row.verdict for row in judgement.rows}
    assert by_scale == {(): "confirmed", ("8 epochs, not 80",): "inconclusive"}
    assert judgement.verdict == "confirmed"


def test_rows_that_disagree_conclude_nothing(place: Path) -> None:
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


def test_a_folder_without_claims_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no claims"):
        judge(tmp_path)


def _evaluate(place: Path, config: RunConfig, labels: str) -> None:
    """A record of an evaluation of a run's samples, under a label scheme."""
    conditions = conditions_of(config).model_copy(update={"labels": labels})
    append_evaluation(place / "results", make_evaluation(config, conditions))


def _published_scale(registers: str, seed: int) -> RunConfig:
    """SiT-XL/2 on a description of ImageNet, trained for 80 epochs."""
    steps = 80 * 1_281_167 // 256
    request = Request("sit-xl-2", registers, "imagenet256", seed=seed, changes=(f"recipe.steps={steps}",))
    return resolve(request, needs_data=False)


def _add_fid(place: Path, config: RunConfig, value: float) -> None:
    fid = Measurement(name="fid", value=value, unit="distance", better="lower", num_images=50_000, basis=BASIS)
    record = make_record(config).model_copy(update={"measurements": (fid,)})
    store.append(place / "results", record, None)
