"""ImageNet's tasks: shown whole without images, and carried out on a folder of twenty."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.build import build
from harness.resolve import Request, resolve
from harness.run import run
from harness.spec import Execution
from tests.builders import STAND_IN, harness, harness_afresh, image_folder, quick_config, quick_words

SMALL = (
    "network.width=16",
    "network.depth=2",
    "network.num_heads=2",
    "recipe.steps=2",
    "recipe.batch_size=4",
    "protocol.num_images=8",
    "protocol.outlier_images=2",
)


def _shown(tmp_path: Path, *words: str) -> Any:
    said = harness("run", "--dry-run", *words, cwd=tmp_path)
    assert said.code == 0, said.err
    return json.loads(said.out)


@pytest.mark.parametrize(
    ("backbone", "size", "expected"),
    [
        ("sit", "xl-2", {"learning_rate": 1e-4, "batch_size": 256, "ema_decay": 0.9999, "precision": "tf32"}),
        ("dit", "xl-2", {"learning_rate": 1e-4, "batch_size": 256, "weight_decay": 0.0, "warmup_steps": 0}),
        ("jit", "b-16", {"learning_rate": 2e-4, "batch_size": 1024, "second_ema_decay": 0.9996, "warmup_steps": 6255}),
        ("rae-dit", "xl", {"learning_rate": 2e-4, "batch_size": 1024, "gradient_clip": None, "decay": "none"}),
        ("rae-dit-dh", "xl", {"gradient_clip": 1.0, "ema_decay": 0.9995, "final_learning_rate": 2e-5}),
    ],
)
def test_a_dry_run_shows_the_official_recipe(
    tmp_path: Path, backbone: str, size: str, expected: dict[str, object]
) -> None:
    shown = _shown(tmp_path, "--backbone", backbone, "--task", "imagenet256", "--registers", "dsr")
    assert shown["size"] == size
    assert shown["protocol"]["num_images"] == 50_000
    assert {name: shown["recipe"][name] for name in expected} == expected
    assert shown["registers"]["denoiser"]["count"] == 36
    assert round(shown["epochs"]) in (600, 800, 1400)


def test_at_512_pixels_inputs_and_noise_grow(tmp_path: Path) -> None:
    jit = _shown(tmp_path, "--backbone", "jit", "--task", "imagenet512")
    assert (jit["size"], jit["network"]["input_size"], jit["objective"]["noise_scale"]) == ("b-32", 512, 2.0)
    sit = _shown(tmp_path, "--backbone", "sit", "--task", "imagenet512")
    assert (sit["network"]["in_channels"], sit["network"]["input_size"]) == (4, 64)
    rae = _shown(tmp_path, "--backbone", "rae-dit", "--task", "imagenet512")
    assert rae["objective"]["time_shift"] == pytest.approx(13.8564, abs=1e-4)


def test_without_images_a_run_is_refused(tmp_path: Path) -> None:
    said = harness("run", "--backbone", "jit", "--task", "imagenet256", cwd=tmp_path)
    assert said.code == 2
    assert "--data DIR" in said.err


def _imagenet(tmp_path: Path) -> Path:
    """Twenty images in the layout of the ILSVRC archive."""
    root = tmp_path / "imagenet"
    image_folder(root / "train", classes=4, per_class=5, size=(300, 280))
    for label in range(4):
        (root / "train" / f"class{label}").rename(root / "train" / f"n0144076{label}")
    return root


def _tiny_vae(folder: Path) -> Path:
    torch.manual_seed(0)
    maker: Any = diffusers.AutoencoderKL
    vae = maker(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
    )
    vae.save_pretrained(folder, safe_serialization=True)
    return folder


def test_twenty_images_go_all_the_way_through_a_vae(tmp_path: Path) -> None:
    data, vae = _imagenet(tmp_path), _tiny_vae(tmp_path / "vae")
    sets = [*SMALL, f"latents.weights={vae}", "sampler.method=euler", "sampler.points=3"]
    words = [word for change in sets for word in ("--set", change)]
    words += ["--size", "tiny", "--data", str(data), "--threads", "1", "--json", "--registers", "dsr"]
    said = harness("run", "--backbone", "sit", "--task", "imagenet256", *words, cwd=tmp_path)
    assert said.code == 0, said.err
    record = json.loads(said.out)
    assert record["status"] == "finished"
    assert record["config"]["network"]["input_size"] == 32
    assert record["config"]["task"]["class_names"] == [f"n0144076{label}" for label in range(4)]
    assert any("vae [" in note and "SHA-256" in note for note in record["notes"])
    assert str(tmp_path) not in said.out.replace(record["path"], "")
    assert list((tmp_path / "runs" / "latents").rglob("*.npy"))


@pytest.mark.parametrize("backbone", ["jit", "rae-dit", "rae-dit-dh"])
def test_twenty_images_go_all_the_way(tmp_path: Path, backbone: str) -> None:
    pixels = "network.patch_size=32" if backbone == "jit" else "latents.kind=stand-in"
    patch = () if backbone == "jit" else ("latents.patch=16",)
    execution = Execution(
        data=str(_imagenet(tmp_path)), results=str(tmp_path / "results"), runs=str(tmp_path / "runs"), threads=1
    )
    small = (change for change in SMALL if backbone != "jit" or "heads" not in change)
    changes = (*small, pixels, *patch, "sampler.points=3", "recipe.precision=float32")
    config = resolve(Request(backbone, "dsr", "imagenet256", size="tiny", changes=changes, execution=execution))
    outcome = run(config)
    assert outcome.record.status == "finished"
    assert config.protocol.uint8_rule == ("round" if backbone == "jit" else "truncate-255")


def test_an_encoder_that_is_not_here_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["--task", "imagenet256", "--data", str(_imagenet(tmp_path)), "--size", "tiny"]
    said = harness_afresh("run", "--backbone", "rae-dit", *words, cwd=tmp_path)
    assert said.code == 2
    assert "google/siglip2-base-patch16-256" in said.err
    assert "--encoder-weights" in said.err


def _finished(tmp_path: Path, backbone: str, *changes: str) -> Path:
    """The weights of a quick run."""
    config = quick_config(tmp_path, backbone, "none", *changes)
    run(config)
    return Path(config.execution.runs) / config.run_id / "weights.safetensors"


def test_a_released_model_is_measured_without_training(tmp_path: Path) -> None:
    weights = _finished(tmp_path, "sit")
    said = harness(*quick_words("sit"), "--weights", str(weights), "--json", cwd=tmp_path)
    assert said.code == 0, said.err
    record = json.loads(said.out)
    assert record["config"]["weights"]["name"] == "weights.safetensors"
    assert len(record["config"]["weights"]["sha256"]) == 64
    assert record["loss_curve"] == []
    names = {measurement["name"]: measurement["value"] for measurement in record["measurements"]}
    assert "train_seconds" not in names
    trained = json.loads(next((tmp_path / "results" / "measured").rglob("*sit/*.json")).read_text())
    assert str(tmp_path) not in json.dumps(record["config"])
    assert {m["name"]: m["value"] for m in trained["measurements"]}["fd_digits"] == names["fd_digits"]


def test_weights_of_another_network_are_refused_before_anything_runs(tmp_path: Path) -> None:
    weights = _finished(tmp_path, "sit")
    said = harness(*quick_words("jit"), "--weights", str(weights), cwd=tmp_path)
    assert said.code == 2
    assert "missing" in said.err
    assert not (tmp_path / "runs" / "images").exists()


def test_an_import_shows_its_mapping_and_writes_our_names(tmp_path: Path) -> None:
    """DSR's names for registers, their prefixed tables checked and left out."""
    from dsr.official import layout

    config = quick_config(tmp_path, "rae-dit", "denoiser")
    denoiser = build(config)
    official = layout(config.registers, denoiser)
    state = {**denoiser.state_dict(), **official.derived}
    theirs = {key: state[official.names.get(key, key)].clone() for key in official.order}
    torch.save({"ema": theirs, "model": {}, "step": 1}, tmp_path / "ep-last.pt")
    words = ["--backbone", "rae-dit", "--task", "digits", "--registers", "denoiser"]
    small = ("network.width=16", "network.depth=3", "network.num_heads=2", *STAND_IN)
    words += [word for change in small for word in ("--set", change)]
    dry = harness("import-weights", "ep-last.pt", *words, "--dry-run", cwd=tmp_path)
    assert dry.code == 0, dry.err
    assert "register_tokens" in dry.out
    assert "registers.sets.1.tokens" in dry.out
    assert "2 checked" in dry.out
    assert "nothing was written" in dry.out
    done = harness("import-weights", "ep-last.pt", *words, "--out", "ours.safetensors", cwd=tmp_path)
    assert done.code == 0, done.err
    ours = load_file(tmp_path / "ours.safetensors")
    assert all(torch.equal(ours[key], value) for key, value in denoiser.state_dict().items())


def test_an_import_that_does_not_fit_shows_why_and_writes_nothing(tmp_path: Path) -> None:
    save_file({"pos_embed": torch.zeros(1, 4, 8)}, tmp_path / "other.safetensors")
    words = ["--backbone", "sit-s-2", "--out", "ours.safetensors"]
    said = harness("import-weights", "other.safetensors", *words, cwd=tmp_path)
    assert said.code == 2
    assert "shape differs" in said.out
    assert not (tmp_path / "ours.safetensors").exists()


def test_autoguidance_takes_its_weaker_network_from_a_file(tmp_path: Path) -> None:
    weights = _finished(tmp_path, "rae-dit-dh", "network.width=64", "network.num_heads=4")
    guide = ["--guide", str(weights), "--guide-size", "tiny", "--json"]
    said = harness(*quick_words("rae-dit-dh", "none", "protocol.guidance.scale=1.5"), *guide, cwd=tmp_path)
    assert said.code == 0, said.err
    record = json.loads(said.out)
    guidance = record["config"]["protocol"]["guidance"]
    assert (guidance["scale"], guidance["guide"]["backbone"]) == (1.5, "rae-dit-dh-tiny")
    plain = json.loads(harness(*quick_words("rae-dit-dh"), "--json", cwd=tmp_path).out)
    guided, unguided = ([m for m in r["measurements"] if m["name"] == "fd_digits"] for r in (record, plain))
    assert [m["basis"]["guidance"]["kind"] for m in guided] == ["autoguidance", "none"]
    assert guided[0]["value"] != guided[1]["value"] == unguided[0]["value"]
    passes, fewer = (next(m["value"] for m in r["measurements"] if m["name"] == "nfe") for r in (record, plain))
    assert passes == 2 * fewer


def test_a_guide_that_would_do_nothing_is_refused(tmp_path: Path) -> None:
    weights = _finished(tmp_path, "rae-dit-dh")
    said = harness(*quick_words("rae-dit-dh"), "--guide", str(weights), cwd=tmp_path)
    assert said.code == 2
    assert "protocol.guidance.scale" in said.err


def test_a_released_model_needs_no_more_images_than_are_probed(tmp_path: Path) -> None:
    """ImageNet is not decoded, nor encoded, to measure a model that is not trained on it here."""
    data, vae = _imagenet(tmp_path), _tiny_vae(tmp_path / "vae")
    changes = (*SMALL, f"latents.weights={vae}", "sampler.method=euler", "sampler.points=3")
    execution = Execution(data=str(data), results=str(tmp_path / "results"), runs=str(tmp_path / "runs"), threads=1)
    trained = resolve(Request("sit", "none", "imagenet256", size="tiny", changes=changes, execution=execution))
    run(trained)
    elsewhere = execution.model_copy(
        update={
            "weights": str(tmp_path / "runs" / trained.run_id / "weights.safetensors"),
            "runs": str(tmp_path / "others"),
        }
    )
    released = resolve(Request("sit", "none", "imagenet256", size="tiny", changes=changes, execution=elsewhere))
    outcome = run(released)
    assert outcome.record.outliers
    assert not (tmp_path / "others" / "images").exists()
    assert not (tmp_path / "others" / "latents").exists()


def test_a_guide_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    weights = _finished(tmp_path, "rae-dit-dh")
    words = [*quick_words("rae-dit-dh", "none", "protocol.guidance.scale=1.5"), "--guide", str(weights)]
    said = harness(*words, cwd=tmp_path)
    assert said.code == 2
    assert "of another shape" in said.err
    assert harness(*quick_words("sit"), "--guide-size", "tiny", cwd=tmp_path).code == 2
