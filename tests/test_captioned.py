"""The task t2i: a denoiser learns images with captions by a frozen text encoder, through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.cli import main
from harness.record_versions import read_record
from harness.records import RunRecord
from tests.text_builders import make_text_encoder

CAPTIONS = ("a red square", "a blue circle", "two dogs", "a red square")
PROMPTS = 553


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with captions, and a text encoder."""
    root = tmp_path_factory.mktemp("captioned")
    (root / "images").mkdir()
    for number, caption in enumerate(CAPTIONS):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        (root / "images" / f"{number}.txt").write_text(caption)
    make_text_encoder(root / "clip-tiny", "clip")
    return root


def _words(place: Path, *further: str) -> list[str]:
    """A small run: images of 16 x 16, one for each of GenEval's prompts."""
    changes = {
        "task.image_size": 16,
        "network.depth": 1,
        "network.width": 16,
        "network.num_heads": 2,
        "network.patch_size": 8,
        "network.in_context_len": 0,
        "recipe.steps": 2,
        "recipe.batch_size": 4,
        "recipe.warmup_steps": 0,
        "recipe.precision": "float32",
        "sampler.points": 2,
        "protocol.num_images": PROMPTS,
        "protocol.outlier_images": 2,
    }
    sets = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    folders = [word for name in ("runs", "results") for word in (f"--{name}", str(place / name))]
    encoder = ["--text-encoder", str(place / "clip-tiny")]
    words = ["--backbone", "jit", "--task", "t2i", "--size", "tiny", "--data", str(place / "images"), "--threads", "1"]
    return ["run", *words, *encoder, *sets, *folders, *further]


@pytest.fixture(scope="module")
def record(place: Path) -> RunRecord:
    assert main(_words(place)) == 0
    (file,) = (place / "results" / "measured" / "t2i" / "jit").glob("*.json")
    return read_record(file.read_bytes())


def test_a_run_on_captions_makes_images_for_every_prompt(place: Path, record: RunRecord) -> None:
    config = record.config
    assert config.text is not None
    assert config.text.encoder == "clip-tiny"
    assert config.task.num_training_images == len(CAPTIONS)
    with np.load(place / "runs" / record.run_id / "samples.npz") as samples:
        assert samples["arr_0"].shape == (PROMPTS, 16, 16, 3)
        assert samples["prompts"].tolist() == list(range(1, PROMPTS + 1))
    assert (place / "runs" / "texts").is_dir()
    first = place / "runs" / record.run_id / "images" / "00000"
    assert json.loads((first / "metadata.jsonl").read_text())["prompt"] == "a photo of a bench"
    assert (first / "samples" / "0000.png").is_file()


def test_its_record_is_valid_and_its_denoiser_can_be_probed(place: Path, record: RunRecord) -> None:
    assert main(["validate", "--results", str(place / "results")]) == 0
    words = ["--data", str(place / "images"), "--text-encoder", str(place / "clip-tiny"), "--threads", "1"]
    assert main(["probe", "--run", record.run_id, "--runs", str(place / "runs"), *words]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "digits", "--text-encoder", "x"], "--text-encoder has no effect"),
        (["--task", "digits", "--set", "text.entry=in-context"], "has no prompts"),
        (["--task", "t2i", "--text-encoder", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_text_that_has_no_effect_is_a_mistake(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["run", "--backbone", "sit", "--results", str(tmp_path), "--runs", str(tmp_path), *words])
    assert code == 2
    assert said in capsys.readouterr().err


def test_the_dry_run_says_how_prompts_enter(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_words(place, "--dry-run", "--set", "text.entry=in-context")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["text"]["entry"] == "in-context"
    assert shown["text"]["width"] == 16
