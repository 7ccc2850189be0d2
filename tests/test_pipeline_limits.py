"""Pretrained pipelines are told apart by what moves their images, and what they cannot do is said in a sentence."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import main
from harness.errors import UserError
from harness.pipelines.folder import find_pipeline
from harness.pipelines.opening import OpenPipeline
from harness.pipelines.recording import IDENTITY, Opened, Request, Work, _opened, _probed, begin, guidance_of
from harness.pipelines.sampling import made_by
from harness.pipelines.settings import PipelineSettings
from harness.pipelines.structure import rows_of_an_image
from harness.probe_cli import _bare
from harness.spec import Execution
from tests import pipeline_builders as builders
from tests.geneval_builders import some_prompts

SETTINGS = PipelineSettings(
    steps=2, height=builders.SIZE, width=builders.SIZE, precision="float32", images_per_prompt=1, noise_levels=(0.5,)
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("pipelines")
    return {"sd3": builders.save_sd3(place / "sd3"), "flux": builders.save_flux(place / "flux")}


def begun(folder: Path, place: Path, **settings: Any) -> Work:
    execution = Execution(device="cpu", threads=1, runs=str(place / "runs"), results=str(place / "results"))
    asked = SETTINGS.model_copy(update=settings)
    return begin(Request(str(folder), tuple(some_prompts()[:1]), asked, 0, execution, None))


@pytest.mark.parametrize(("family", "kind", "rows"), [("sd3", "classifier-free", 2), ("flux", "unknown", 1)])
def test_guidance_is_classifier_free_where_a_row_without_the_prompt_goes_along(
    folders: dict[str, Path], tmp_path: Path, family: str, kind: str, rows: int
) -> None:
    pipeline = begun(folders[family], tmp_path, guidance_scale=3.5).pipeline
    assert rows_of_an_image(pipeline) == rows
    used = guidance_of(Opened(identity=pipeline.identity, rows=rows))
    assert (used.kind, used.scale, used.chosen) == (kind, 3.5, "unknown")


def test_another_size_than_was_asked_for_is_refused_before_it_is_kept(folders: dict[str, Path], tmp_path: Path) -> None:
    work = begun(folders["flux"], tmp_path, width=38)
    with pytest.raises(UserError, match=r"asked for 38 x 32 images, and makes \d\d x 32") as stopped:
        made_by(work.pipeline, "a dog", [0])
    assert "--set pipeline.height=32 --set pipeline.width=" in stopped.value.remedy


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("shapes cannot be multiplied"), "refuses to make 32 x 32 .*shapes cannot be multiplied"),
        (torch.OutOfMemoryError("CUDA out of memory"), "sampling needs more memory than the GPU has"),
    ],
)
def test_what_a_pipeline_fails_with_is_told(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(OpenPipeline, "images", fail)
    with pytest.raises(UserError, match=said):
        made_by(begun(folders["sd3"], tmp_path).pipeline, "a dog", [0])


def test_images_of_other_devices_and_libraries_are_never_mixed(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = begun(folders["sd3"], tmp_path)
    places = {work.place, dataclasses.replace(work, device=torch.device("cuda")).place}
    for library in ("diffusers", "torch"):
        with monkeypatch.context() as other:
            other.setattr(f"{library}.__version__", "0.1")
            places.add(work.place)
    assert len(places) == 4


def test_a_tokenizers_words_are_part_of_what_moves_images(folders: dict[str, Path], tmp_path: Path) -> None:
    place = shutil.copytree(folders["sd3"], tmp_path / "sd3")
    before = find_pipeline(str(place)).settings_sha256()
    (place / "tokenizer" / "merges.txt").write_text("d o")
    assert find_pipeline(str(place)).settings_sha256() != before


def test_images_of_the_probe_are_kept_where_they_are_those_of_sampling(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    on_cpu = begun(folders["sd3"], tmp_path)
    on_gpu = dataclasses.replace(on_cpu, device=torch.device("cuda"))
    on_gpu.__dict__["pipeline"] = on_cpu.pipeline
    assert _probed(on_cpu) == _probed(on_gpu)
    assert on_cpu.images.is_whole(1, 1)
    assert not list(on_gpu.images.place.rglob("*.png"))


def test_what_is_kept_of_a_pipeline_has_the_present_folders_name(folders: dict[str, Path], tmp_path: Path) -> None:
    first = begun(folders["sd3"], tmp_path)
    kept = _opened(first)
    moved = begun(shutil.copytree(folders["sd3"], tmp_path / "another-name"), tmp_path)
    assert moved.place == first.place
    assert _opened(moved).identity == kept.identity.model_copy(update={"name": "another-name"})
    assert "pipeline" not in moved.__dict__, "it was opened again"
    (first.place / IDENTITY).write_text("{")
    with pytest.raises(UserError, match=r"pipeline\.json is damaged"):
        _opened(first)


def test_only_pipelines_are_pipelines(tmp_path: Path) -> None:
    place = builders.write_index(tmp_path, {"_class_name": "utils", "transformer": ["diffusers", "X"]})
    with pytest.raises(UserError, match="names the pipeline utils, which diffusers"):
        find_pipeline(str(place))


def test_the_hubs_own_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("403: access to this model is restricted")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refuse)
    with pytest.raises(UserError, match="403: access to this model is restricted"):
        find_pipeline("nobody/nothing")


def test_prompts_that_nobody_can_judge_are_refused_before_weights_are_hashed(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.pipelines.folder.PipelineFolder.weights_sha256", lambda _: pytest.fail("hashed"))
    prompts = tmp_path / "prompts.jsonl"
    said = {"tag": "single_object", "include": [{"class": "dragon", "count": 1}], "prompt": "a photo of a dragon"}
    prompts.write_text(json.dumps(said))
    told = ["--prompts", str(prompts), "--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    assert main(["run", "--backbone", f"diffusers:{folders['sd3']}", "--device", "cpu", *told]) == 2
    assert "no detector of COCO knows: dragon" in capsys.readouterr().err


def test_a_probe_keeps_nothing_and_refuses_a_place_for_it(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "--backbone", f"diffusers:{folders['sd3']}", "--runs", "there"]) == 2
    assert "--runs has no effect on the probe of a pipeline" in capsys.readouterr().err


def test_figures_of_versions_of_a_model_have_names_of_their_own() -> None:
    names = ("FLUX.1-dev", "FLUX.1-schnell", "model.safetensors", "facebook/DiT-XL-2-256/DiT.pt")
    assert [_bare(name) for name in names] == ["FLUX.1-dev", "FLUX.1-schnell", "model", "DiT"]
