"""`eval geneval` puts CLIPScore and distances to references into the same record, and goes on where it was killed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from harness import prompt_scoring
from harness.cli import main
from harness.evaluation_records import EvaluationRecord
from harness.metrics.clip import Clip, open_clip
from harness.metrics.clip_score import PromptScores, score_prompt
from harness.metrics.geneval.layout import look_through, read_images
from harness.records import Measurement
from tests.clip_builders import save_clip
from tests.geneval_builders import save_detector, some_prompts, write_gallery
from tests.test_image_sets import random_images, write_folder
from tests.tiny_extractor import KilledError

EXTRACTOR = "timm/test_vit"
BESIDE = ("--clip-score", "--references", "real")


@dataclass(frozen=True)
class Place:
    """Images of prompts, a reference, and the networks, all in one folder."""

    root: Path

    def eval(self, *words: str, results: str = "results", kind: Sequence[str] = ("geneval",)) -> int:
        """The exit code of `eval`, with all that it needs named."""
        networks = (
            "--detector",
            str(self.root / "detector"),
            "--clip",
            str(self.root / "tiny-clip"),
            "--detector-size",
            "checkpoint",
        )
        places = {"images": "images", "runs": "runs", "results": results, "references-dir": "references"}
        named = [word for flag, name in places.items() for word in (f"--{flag}", str(self.root / name))]
        weights = ("--extractor-weights", str(self.root / "vit.safetensors"))
        machine = ("--device", "cpu", "--threads", "1")
        return main(["eval", *kind, *named, *(networks if kind else ()), *weights, *machine, *words])

    def record(self, capsys: pytest.CaptureFixture[str], *words: str, **more: Any) -> EvaluationRecord:
        """What `eval` makes or finds."""
        assert self.eval(*words, "--json", **more) == 0
        told = json.loads(capsys.readouterr().out)
        del told["path"]
        return EvaluationRecord.model_validate(told)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("further")
    save_detector(root / "detector")
    save_clip(root / "tiny-clip")
    write_gallery(root / "images", some_prompts(), size=(32, 32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(timm.create_model("test_vit", num_classes=0).state_dict(), root / "vit.safetensors")
    real = write_folder(root / "real", random_images(12, side=32))
    built = ("--name", "real", "--extractor", EXTRACTOR, "--crop", "none")
    places = ("--references-dir", str(root / "references"), "--extractor-weights", str(root / "vit.safetensors"))
    assert main(["refs", "build", str(real), *built, *places, "--device", "cpu", "--threads", "1"]) == 0
    return Place(root)


def _named(record: EvaluationRecord, name: str) -> Measurement:
    return next(each for each in record.measurements if each.name == name)


def test_one_record_holds_shares_clip_score_and_distances(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    both = place.record(capsys, *BESIDE)
    names = [each.name for each in both.measurements]
    assert names[0] == "geneval"
    assert names[-3:] == ["clip_score", "fd_test_vit", "kd_test_vit"]
    alone = place.record(capsys, "--references", "real", kind=())
    assert [m for m in both.measurements if "test_vit" in m.name] == list(alone.measurements)

    clip = open_clip(str(place.root / "tiny-clip"), torch.device("cpu"))
    gallery = look_through(place.root / "images")
    each = [score_prompt(clip, read_images(prompt), prompt.prompt.prompt).scores for prompt in gallery.prompts]
    near = _named(both, "clip_score")
    assert near.value == pytest.approx(np.mean(each), abs=1e-9)
    assert near.standard_error == pytest.approx(np.mean(each, axis=1).std(ddof=1) / len(each) ** 0.5)
    assert near.basis is not None
    verdict = _named(both, "geneval").basis
    assert verdict is not None
    assert near.basis.reference == verdict.reference
    assert near.basis.extractor == clip.identity

    plain = place.record(capsys)
    assert plain.evaluation_id != both.evaluation_id
    assert plain.measurements == both.measurements[: len(plain.measurements)]
    assert plain.verdicts == both.verdicts
    assert place.eval(*BESIDE) == 0
    said = capsys.readouterr().out
    assert said.startswith("stored result")
    assert f"against real ({EXTRACTOR})" in said
    assert "CLIP reads" in said


def test_an_interrupted_clip_score_goes_on_with_the_next_prompt(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    scored: list[str] = []

    def dying(most: int) -> Any:
        def score(clip: Clip, images: Sequence[Any], text: str) -> PromptScores:
            if len(scored) == most:
                raise KilledError
            scored.append(text)
            return score_prompt(clip, images, text)

        return score

    title = ("--title", "interrupted", "--runs", str(place.root / "other-runs"))
    monkeypatch.setattr(prompt_scoring, "score_prompt", dying(2))
    with pytest.raises(KilledError):
        place.eval(*title, "--clip-score")
    monkeypatch.setattr(prompt_scoring, "score_prompt", dying(99))
    record = place.record(capsys, *title, "--clip-score")
    assert sorted(scored) == sorted(prompt.prompt for prompt in some_prompts())
    whole = place.record(capsys, *BESIDE)
    assert _named(record, "clip_score") == _named(whole, "clip_score")


def test_a_reference_that_is_not_there_is_missed_before_anything_is_judged(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.geneval_evaluating.score_gallery", lambda *_: pytest.fail("judged"))
    assert place.eval("--references", "nowhere", results="no-results") == 2
    assert "nowhere" in capsys.readouterr().err


def test_references_are_compared_with_the_images_that_were_judged(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_gallery(tmp_path / "images", some_prompts()[:1], size=(32, 32))
    monkeypatch.setattr("harness.geneval_evaluating.look_through", lambda _: look_through(other))
    assert place.eval("--references", "real", results="no-results") == 2
    assert "are not those that are judged" in capsys.readouterr().err
