"""The command line, as a researcher uses it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.data import digits
from harness.records import RunRecord
from harness.registers import DenoiserRegisters, RegisterConfig
from tests.builders import Said, harness, harness_afresh, image_folder, quick_words


@pytest.mark.parametrize(
    ("backbone", "registers", "start"), [("sit", "dsr", harness_afresh), ("dit", "denoiser", harness)]
)
def test_run_trains_measures_stores_and_tells(
    tmp_path: Path, backbone: str, registers: str, start: Callable[..., Said]
) -> None:
    none = start(*quick_words(backbone, "none"), cwd=tmp_path)
    assert none.code == 0, none.err
    said = harness(*quick_words(backbone, registers), cwd=tmp_path)
    assert said.code == 0, said.err
    for words in ("4 tokens from block 1 of 3", "6 steps", "fd_digits", "to none", "python -m harness board"):
        assert words in said.out
    (path,) = [Path(line.split()[1]) for line in said.out.splitlines() if line.startswith("record ")]
    record = RunRecord.model_validate_json((tmp_path / path).read_bytes())
    assert record.status == "finished"
    assert record.samples is not None
    assert (tmp_path / path).with_name(record.samples.file).read_bytes().startswith(b"\x89PNG")
    again = harness(*quick_words(backbone, registers), cwd=tmp_path)
    assert "nothing was run" in again.out
    assert str(path) in again.out


def test_seeds_are_separate_runs_and_json_is_for_machines(tmp_path: Path) -> None:
    said = harness(*quick_words(), "--seeds", "0-1", "--json", cwd=tmp_path)
    first, second = json.loads(said.out)
    assert (first["config"]["seed"], second["config"]["seed"]) == (0, 1)
    assert first["run_id"] != second["run_id"]
    index = json.loads(harness("index", "--json", cwd=tmp_path).out)
    assert (index["records"], index["problems"]) == (2, [])


def test_dry_run_shows_every_field_and_touches_nothing(tmp_path: Path) -> None:
    said = harness("run", "--backbone", "sit-b-2", "--registers", "dsr", "--dry-run", cwd=tmp_path)
    config = json.loads(said.out)
    denoiser = DenoiserRegisters(count=36, start_block=4)
    expected = RegisterConfig(preset="dsr", denoiser=denoiser, absent_stages=("encoder",))
    assert config["registers"] == expected.model_dump(mode="json")
    assert config["network"]["width"] == 768
    assert list(tmp_path.iterdir()) == []


def test_a_change_of_kind_starts_from_that_kinds_defaults(tmp_path: Path) -> None:
    words = ["run", "--backbone", "sit", "--dry-run", "--set", "sampler.points=9", "--set", "sampler.kind=sde"]
    sampler = json.loads(harness(*words, cwd=tmp_path).out)["sampler"]
    assert (sampler["kind"], sampler["points"], sampler["diffusion"]) == ("sde", 9, "sigma")


@pytest.mark.parametrize(
    "changes",
    [
        ("sampler.kind=sde", "sampler.points=4"),
        ("objective.path=gvp", "objective.prediction=noise", "sampler.method=dopri5"),
        ("objective.path=vp", "objective.prediction=score", "sampler.method=euler", "sampler.points=4"),
        ("protocol.guidance.scale=2.0", "protocol.guidance.interval=[0.2,0.9]"),
        ("recipe.precision=bf16", "recipe.gradient_clip=null"),
    ],
    ids=" ".join,
)
def test_the_other_ways_to_train_and_sample_a_flow(tmp_path: Path, changes: tuple[str, ...]) -> None:
    said = harness(*quick_words("sit", "denoiser", *changes), "--json", cwd=tmp_path)
    assert said.code == 0, said.err
    record = RunRecord.model_validate({k: v for k, v in json.loads(said.out).items() if k != "path"})
    assert record.status == "finished"
    assert ("adaptive" in " ".join(record.notes)) == ("sampler.method=dopri5" in changes)


@pytest.mark.parametrize(
    "changes",
    [
        ("sampler.kind=ddim", "sampler.respacing=ddim4", "sampler.eta=0.5"),
        ("objective.variance=fixed_large", "network.learn_sigma=false", "protocol.guidance.scale=1.5"),
        ("objective.schedule=squaredcos_cap_v2", "sampler.clip_denoised=true"),
    ],
    ids=" ".join,
)
def test_the_other_ways_to_train_and_sample_a_diffusion(tmp_path: Path, changes: tuple[str, ...]) -> None:
    said = harness(*quick_words("dit", "denoiser", *changes), cwd=tmp_path)
    assert said.code == 0, said.err


def test_seeds_run_matched_arms_and_say_how_sure_the_difference_is(tmp_path: Path) -> None:
    said = harness(*quick_words("sit", "dsr"), "--seeds", "0-1", cwd=tmp_path)
    assert said.code == 0, said.err
    records = [json.loads(path.read_text()) for path in (tmp_path / "results").rglob("*.json")]
    arms = [(record["config"]["registers"]["preset"], record["config"]["seed"]) for record in records]
    assert sorted(arms) == [("dsr", 0), ("dsr", 1), ("none", 0), ("none", 1)]
    assert "to none  fd_digits" in said.out
    assert "Student's t over 2 training seeds" in said.out
    alone = harness(*quick_words("dit", "dsr"), "--seeds", "0-1", "--alone", cwd=tmp_path)
    assert "to none  fd" not in alone.out
    assert len(list((tmp_path / "results" / "measured" / "digits" / "dit").glob("*.json"))) == 2


def test_a_guided_run_is_also_judged_without_guidance(tmp_path: Path) -> None:
    """Only that compares with everyone's; a later evaluation of its samples has both too."""
    words = quick_words("sit", "none", "protocol.guidance.scale=3", "protocol.guidance.interval=[0.2,1]")
    record = json.loads(harness(*words, "--json", cwd=tmp_path).out)
    plain = json.loads(harness(*quick_words("sit"), "--json", cwd=tmp_path).out)
    guided, unguided = _distances(record)
    used = guided["basis"]["guidance"]
    assert (used["kind"], used["scale"], used["interval"]) == ("classifier-free", 3.0, [0.2, 1.0])
    assert used["chosen"] == "untuned"
    assert guided["value"] != unguided["value"]
    (alone,) = _distances(plain)
    assert (unguided["value"], unguided["basis"]) == (alone["value"], alone["basis"])
    again = json.loads(harness("eval", "--run", record["run_id"], "--json", cwd=tmp_path).out)
    assert [m["value"] for m in _distances(again)] == [guided["value"], unguided["value"]]
    assert again["run_id"] == record["run_id"]


def test_a_finished_run_is_judged_against_further_references(tmp_path: Path) -> None:
    images, folder = digits(), tmp_path / "real"
    folder.mkdir()
    for index in range(0, 1797, 30):
        Image.fromarray(images.pixels(np.array([index]))[0, 0]).save(folder / f"{index}.png")
    assert harness(*quick_words(), cwd=tmp_path).code == 0
    built = ["refs", "build", str(folder), "--name", "few", "--extractor", "digits", "--crop", "none"]
    assert harness(*built, cwd=tmp_path).code == 0
    said = harness(*quick_words(), "--references", "few", cwd=tmp_path)
    assert said.code == 0, said.err
    assert "judged against few too" in said.err
    (path,) = (tmp_path / "results" / "evaluations").glob("*.json")
    further = json.loads(path.read_text())
    assert {m["basis"]["reference"]["name"] for m in _distances(further)} == {"few"}
    missing = harness(*quick_words(), "--references", "many", cwd=tmp_path)
    assert (missing.code, "no reference named 'many'" in missing.err) == (2, True)


def test_digits_are_no_reference_for_other_images(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data")
    words = quick_words("dit", "none", "task.image_size=16")
    said = harness(*words, "--task", "folder", "--data", str(data), "--references", "digits", cwd=tmp_path)
    assert (said.code, "no reference for images of 3 x 16 x 16" in said.err) == (2, True)
    assert not list((tmp_path / "runs").rglob("weights.safetensors")), "refused before the training"


def _distances(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [measurement for measurement in record["measurements"] if measurement["name"] == "fd_digits"]


@pytest.mark.parametrize("rate", ["10", "1e10"])
def test_a_ruined_run_is_a_result_too(tmp_path: Path, rate: str) -> None:
    words = quick_words("sit", "dsr", f"recipe.learning_rate={rate}", "recipe.warmup_steps=0")
    said = harness(*words, cwd=tmp_path)
    assert said.code == 0, said.err
    assert "record " in said.out


def test_a_diverged_run_is_a_result(tmp_path: Path) -> None:
    words = quick_words("sit", "none", "recipe.learning_rate=1e30", "recipe.warmup_steps=0")
    said = harness(*words, cwd=tmp_path)
    assert said.code == 0, said.err
    assert "DIVERGED at step" in said.out
    assert "fd_digits" not in said.out
    assert "nothing was run" in harness(*words, cwd=tmp_path).out


def test_an_average_that_is_too_long_for_its_training_is_said(tmp_path: Path) -> None:
    said = harness(*quick_words("sit", "none", "recipe.ema_decay=0.9"), cwd=tmp_path)
    assert "53% of the EMA is still the untrained network" in said.out


def test_a_folder_of_images_end_to_end(tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data")
    (data / "class1" / "0.png").write_bytes(b"not an image")
    words = quick_words("dit", "denoiser", "task.image_size=16")
    said = harness(*words, "--task", "folder", "--data", str(data), "--json", cwd=tmp_path)
    assert said.code == 0, said.err
    record = json.loads(said.out)
    left_out, not_judged = record["notes"]
    assert left_out == "left out 1 unreadable of 15 images: class1/0.png"
    assert "--references" in not_judged
    assert "class1/0.png" in said.err
    assert record["config"]["task"]["num_classes"] == 3
    assert not [m for m in record["measurements"] if m["name"] == "fd_digits"]
    assert str(tmp_path) not in said.out, "a record names no place of one machine"


@pytest.mark.parametrize("what", ["backbones", "registers", "tasks", "encoders", "extractors", "metrics"])
def test_list_says_what_there_is(tmp_path: Path, what: str) -> None:
    entries = json.loads(harness("list", what, "--json", cwd=tmp_path).out)
    text = harness("list", what, cwd=tmp_path).out
    assert entries
    assert all(entry["name"] in text for entry in entries)
