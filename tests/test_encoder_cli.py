"""Encoders through the command line: neurons, probe, stage1, and runs over an encoder's latents."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import resolve_latents
from harness.cli import BAD_INPUT, main
from harness.encoder_folder import encoder_named
from harness.resolve import Request, resolve, resolve_network
from harness.spec import Execution, RaeLatents
from tests.builders import QUICK, Said, harness, harness_afresh, image_folder
from tests.encoder_builders import encoder_folder, image_files

SHORT = [word for change in (*QUICK, "sampler.points=3", "protocol.num_images=30") for word in ("--set", change)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a planted encoder, loose images, and images in classes."""
    root = tmp_path_factory.mktemp("user")
    encoder_folder(root / "encoder")
    image_files(root / "images")
    image_folder(root / "classes", size=(60, 70))
    return root


def _json(said: Said) -> Any:
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_neurons_are_found_listed_and_probed(place: Path) -> None:
    words = ["--encoder", "encoder", "--data", "images", "--threads", "1"]
    found = _json(harness("neurons", "find", *words, "--out", "mine.json", "--json", cwd=place))
    assert found["verdict"] == "outliers"
    assert found["effect"]["after"] < 2 < found["effect"]["before"]
    kept = json.loads((place / "mine.json").read_text())
    assert (kept["name"], kept["encoder"]) == ("mine", "small")
    assert len(kept["encoder_sha256"]) == 64
    probed = _json(
        harness(
            *["probe", *words, "--neurons", "mine.json", "--figure", "norms.png", "--out", "norms.json", "--json"],
            cwd=place,
        )
    )
    assert (probed["before"]["verdict"], probed["after"]["verdict"]) == ("outliers", "no outliers in this encoder")
    assert json.loads((place / "norms.json").read_text()) == probed
    assert (place / "norms.png").read_bytes()[:4] == b"\x89PNG"
    said = harness("neurons", "find", *words, "--recursive", "2", "--top-k", "2", cwd=place)
    assert said.code == 0
    assert "round 2" in said.out
    assert {each["name"] for each in _json(harness("neurons", "list", "--json", cwd=place))} >= {"siglip2-b"}
    assert "siglip2-b" in harness("list", "encoders", cwd=place).out


def test_a_run_over_an_encoder_of_ones_own(place: Path) -> None:
    """A folder task with test-time registers by a list of one's own: encoder, decoder and statistics by content."""
    words = ["--task", "folder", "--data", "classes", "--encoder", "encoder", "--set", "task.image_size=48"]
    small = ["--set", "recipe.batch_size=4", "--set", "recipe.warmup_epochs=0", "--set", "recipe.epochs=1"]
    list_words = ["--encoder", "encoder", "--data", "images", "--threads", "1", "--out", "own.json"]
    assert harness("neurons", "find", *list_words, cwd=place).code == 0
    said = harness("stage1", *words, *small, "--registers", "encoder", "--neurons", "own.json", "--json", cwd=place)
    prepared = _json(said)
    run_words = ["run", "--backbone", "rae-dit", *words, *SHORT, "--threads", "1", "--json"]
    decoder = ["--decoder", prepared["decoder"]["path"]]
    plain = _json(harness(*run_words, *decoder, cwd=place))
    added = _json(harness(*run_words, *decoder, "--registers", "encoder", "--neurons", "own.json", cwd=place))
    assert added["config"]["registers"]["encoder"]["kind"] == "test-time"
    assert added["config"]["latents"] == plain["config"]["latents"]
    assert plain["config"]["latents"]["weights"].startswith("encoder [")
    assert prepared["statistics"]["sha256"] in " ".join(added["notes"])
    assert prepared["statistics"]["sha256"] not in " ".join(plain["notes"])
    assert prepared["decoder"]["sha256"] in " ".join(added["notes"])
    assert prepared["decoder"]["sha256"] in " ".join(plain["notes"])
    brought = [*decoder, "--statistics", prepared["statistics"]["path"]]
    refused = harness(*run_words, *brought, cwd=place)
    assert refused.code == 2
    assert "are of the encoder" in refused.err
    accepted = _json(harness(*run_words, *brought, "--registers", "encoder", "--neurons", "own.json", cwd=place))
    assert accepted["run_id"] != added["run_id"]
    assert accepted["config"]["latents"]["decoder_weights"].startswith("decoder.safetensors [")


def test_official_statistics_are_declared_and_imported(place: Path) -> None:
    torch.save({"mean": torch.zeros(32, 6, 6), "var": torch.ones(32, 6, 6)}, place / "stat.pt")
    words = ["--task", "folder", "--data", "classes", "--encoder", "encoder", "--set", "task.image_size=48"]
    said = harness("stage1", *words, "--import-statistics", "stat.pt", "--runs", "imported", "--json", cwd=place)
    assert "imported" in _json(said)["statistics"]["path"]
    run_words = ["run", "--backbone", "rae-dit", *words, *SHORT, "--threads", "1", "--statistics", "stat.pt"]
    undeclared = harness(*run_words, cwd=place)
    assert undeclared.code == 2
    assert "do not say which encoder" in undeclared.err


def _resolved(*changes: str, registers: str = "none", **names: Any) -> Any:
    task = names.pop("task", "imagenet256")
    execution = Execution(threads=1, **names)
    request = Request("rae-dit", registers, task=task, changes=changes, execution=execution)
    return resolve(request, needs_data=False)


@pytest.mark.parametrize(
    ("encoder", "kind", "count"),
    [
        ("siglip2-b", "test-time", 1),
        ("dinov2-b", "trained", 4),
        ("dinov2-b-reg", "trained", 4),
        ("dinov3-b", "trained", 4),
    ],
)
def test_dsr_resolves_per_encoder(encoder: str, kind: str, count: int) -> None:
    config = _resolved(registers="dsr", encoder=encoder)
    registers = config.registers
    assert (registers.encoder.kind, registers.encoder.count) == (kind, count)
    assert registers.denoiser.count == 36
    assert registers.absent_stages == ()
    assert config.latents.encoder == encoder
    assert _resolved(encoder=encoder).registers.encoder is None


def test_shipped_lists_reproduce_what_was_published() -> None:
    registers = _resolved(registers="encoder").registers.encoder
    assert (registers.neuron_list, registers.first_patch, registers.value) == ("siglip2-b", "kept", "layer")
    corrected = _resolved("registers.encoder.first_patch=treated", registers="encoder").registers.encoder
    assert corrected.first_patch == "treated"
    twice = _resolved(registers="encoder-recursive", encoder="siglip2-so400m")
    assert (twice.registers.encoder.rounds, twice.latents.channels) == (2, 1152)


@pytest.mark.parametrize("task", ["imagenet256", "imagenet512"])
def test_an_encoder_sees_one_token_for_each_latent(task: str) -> None:
    config = _resolved(task=task, encoder="dinov2-b")
    at_task = resolve_latents.at_task(encoder_named("dinov2-b"), config.latents, config.task)
    assert at_task.image_size == {"imagenet256": 224, "imagenet512": 448}[task]
    assert at_task.grid == config.network["input_size"]


def test_an_exact_name_is_described_on_its_own_encoder() -> None:
    config = resolve_network(Request("rae-dit-xl", "dsr"))
    assert isinstance(config.latents, RaeLatents)
    assert config.latents.encoder == "siglip2-b"
    assert config.registers.encoder is not None


FIND = "neurons find --encoder encoder --data"
RAE = "run --backbone rae-dit"
WRONG = [
    ("neurons find --encoder siglip2 --data images", "siglip2-b"),
    (f"{FIND} nowhere", "does not exist"),
    (f"{FIND} empty", "no images"),
    (f"{FIND} broken", "no readable image"),
    (f"{FIND} digits", "channels"),
    ("neurons find --encoder digits-vit --data images", "channels"),
    (f"{FIND} images --layer 4", "layers 0 to 3"),
    (f"{FIND} images --lowest-layer 3 --highest-layer 2", "at most 2"),
    (f"{FIND} images --threshold -1", "above 0"),
    (f"{FIND} images --sparsity 2", "from 0 to 1"),
    ("probe --encoder encoder --data images --neurons shipped", "neurons find"),
    ("probe --encoder encoder --data images --neurons siglip2-b", "not of small"),
    ("probe --encoder empty --data images", "config.json"),
    ("run --backbone sit --encoder siglip2-b", "no effect"),
    (f"{RAE} --encoder siglip2-b", "channels"),
    (f"{RAE} --neurons siglip2-b", "no effect"),
    (f"{RAE} --registers encoder --neurons siglip2-b", "neuron"),
    (f"{RAE} --registers encoder --set latents.kind=stand-in --set latents.patch=2", "no transformer"),
    (f"{RAE} --decoder nowhere.pt", "no file"),
    (f"{RAE} --set latents.channels=4", "32 wide"),
    (f"{RAE} --set latents.patch=3", "do not tile"),
    (f"{RAE} --set latents.decoder=vit-m", "vit-b"),
    (f"{RAE} --set latents.encoder=siglip2-b", "use --encoder"),
    ("stage1 --registers denoiser", "--registers encoder"),
    ("stage1 --set recipe.epochs=0", "greater than"),
    ("stage1 --set recipe.lpips_weight=1", "LPIPS"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[words for words, _ in WRONG])
def test_what_a_user_gets_wrong_is_said(
    place: Path, words: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "empty").mkdir(exist_ok=True)
    (place / "broken").mkdir(exist_ok=True)
    (place / "broken" / "a.png").write_text("no image")
    monkeypatch.chdir(place)
    assert main(words.split()) == BAD_INPUT
    said = capsys.readouterr().err
    assert message in said, said
    assert "->" in said


def test_missing_weights_are_named_once_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    image_files(tmp_path / "images", 2)
    said = harness_afresh("probe", "--encoder", "siglip2-b", "--data", "images", cwd=tmp_path)
    assert said.code == 2
    assert said.err.count("error:") == 1
    for word in ("google/siglip2-base-patch16-256", "--encoder-weights", "model.safetensors"):
        assert word in said.err
    assert not cache.exists() or not [file for file in cache.rglob("*") if file.is_file()]


def test_a_list_is_refused_where_it_was_found_in_other_weights(tmp_path: Path) -> None:
    listed = {"name": "other", "encoder": "digits-vit", "source": "test", "neurons": {"1": [2]}}
    (tmp_path / "other.json").write_text(json.dumps(listed | {"encoder_sha256": "0" * 64}))
    said = harness("stage1", "--registers", "encoder", "--neurons", "other.json", "--statistics-only", cwd=tmp_path)
    assert said.code == 2
    assert "other weights" in said.err
