"""Pretrained pipelines: sampled, probed, scored and recorded by the command line, at tiny sizes and offline."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from harness.cli import main
from harness.errors import UserError
from harness.evaluation_records import EvaluationRecord
from harness.geneval_folder import ImageFolder
from harness.metrics.geneval.official_prompts import lines, parse_prompt
from harness.pipelines.folder import find_pipeline
from harness.pipelines.opening import OpenPipeline, open_pipeline, resolved
from harness.pipelines.probed import probe
from harness.pipelines.probing import chosen_steps, times_of
from harness.pipelines.sampling import sample, seed_of
from harness.pipelines.settings import PipelineSettings
from harness.pipelines.structure import Structure, find_structure
from tests import pipeline_builders as builders
from tests.geneval_builders import some_prompts

STEPS, EACH = 3, 2
SETTINGS = PipelineSettings(
    steps=STEPS, height=builders.SIZE, width=builders.SIZE, precision="float32", images_per_prompt=EACH
)
ASKED = ["--set", f"pipeline.steps={STEPS}", "--set", "pipeline.height=32", "--set", "pipeline.width=32"]
FAMILIES = {
    "sd3": builders.save_sd3,
    "pixart": builders.save_pixart,
    "flux": builders.save_flux,
    "sana": builders.save_sana,
    "auraflow": builders.save_auraflow,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("pipelines")
    return {name: save(place / name) for name, save in FAMILIES.items()}


@pytest.fixture(scope="module")
def opened(folders: dict[str, Path]) -> dict[str, OpenPipeline]:
    return {name: opened_from(folder) for name, folder in folders.items()}


def opened_from(place: Path, settings: PipelineSettings = SETTINGS) -> OpenPipeline:
    folder = find_pipeline(str(place))
    return open_pipeline(folder, resolved(folder, settings), folder.weights_sha256(), torch.device("cpu"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text(lines(some_prompts()[:2]))
    return path


@pytest.mark.parametrize(
    ("family", "lists", "counts"),
    [
        ("sd3", {"transformer_blocks": 2}, (0, 1, 333)),
        ("pixart", {"transformer_blocks": 3}, (0, 1, 0)),
        ("flux", {"transformer_blocks": 1, "single_transformer_blocks": 2}, (0, 0, 512)),
        ("sana", {"transformer_blocks": 2}, (0, 1, 0)),
        ("auraflow", {"joint_transformer_blocks": 1, "single_transformer_blocks": 2}, (264, 1, 264)),
    ],
)
def test_blocks_and_patches_are_found_in_every_family(
    opened: dict[str, OpenPipeline], family: str, lists: dict[str, int], counts: tuple[int, int, int]
) -> None:
    found = find_structure(opened[family])
    assert [block.name for block in found.blocks] == [f"{name}.{i}" for name, n in lists.items() for i in range(n)]
    assert (found.blocks[-1].others, found.row, found.beside) == counts
    assert found.blocks[-1].at_end


class PatchesFirst(torch.nn.Module):
    """A transformer on one sequence of patches and then text, as some are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = {"patch_size": 1}
        self.layers = torch.nn.ModuleList([torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)])

    def forward(self, hidden_states: torch.Tensor, text: torch.Tensor, timestep: float = 0) -> tuple[torch.Tensor]:
        tokens = torch.cat([hidden_states, text], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return (tokens[:, : hidden_states.shape[1]],)


class AsksOnce(OpenPipeline):
    """What of a pipeline the search for blocks needs."""

    def images(self, prompt: str, seeds: Sequence[int], **changes: Any) -> list[Image.Image]:
        height = changes.get("height", self.identity.height)
        self.transformer(torch.ones(1, height, 8), torch.full((1, 5, 8), float(len(prompt) + ord(prompt[-1]))))
        return []


def test_patches_before_text_are_found_as_those_behind_it(opened: dict[str, OpenPipeline]) -> None:
    pipeline = AsksOnce(opened["sd3"].identity, None, PatchesFirst().eval(), torch.device("cpu"))
    (block,) = find_structure(pipeline).blocks
    assert (block.others, block.at_end) == (5, False)
    assert block.patches(torch.arange(3.0).reshape(1, 3, 1), 2).flatten().tolist() == [0, 1]


def test_a_transformer_without_blocks_is_refused_with_what_was_found(opened: dict[str, OpenPipeline]) -> None:
    transformer = PatchesFirst().eval()
    transformer.layers = torch.nn.Sequential(*transformer.layers)  # type: ignore[assignment]
    pipeline = AsksOnce(opened["sd3"].identity, None, transformer, torch.device("cpu"))
    with pytest.raises(UserError, match=r"members of its ModuleLists that put out \(N, L, D\) with 32 patches"):
        find_structure(pipeline)


@pytest.mark.parametrize("family", ["sd3", "pixart"])
def test_a_planted_outlier_is_found_at_its_block_and_noise_level(opened: dict[str, OpenPipeline], family: str) -> None:
    pipeline, planted_step = opened[family], 1
    structure = find_structure(pipeline)
    with planted(pipeline, structure, block=1, step=planted_step):
        found = probe(pipeline, some_prompts()[:2], 0, (0.1, 0.5, 0.9))
    times = times_of(pipeline.diffusers.scheduler)
    high = {(each.block, each.time) for each in found.statistics if each.has_outliers}
    assert high == {(block, round(times[planted_step], 4)) for block in range(1, len(structure.blocks))}
    assert found.verdict == "outliers"
    worst = max(found.statistics, key=lambda each: each.max_over_median)
    assert worst.images == 2
    assert worst.share_above_3x == pytest.approx(1 / 64)
    assert worst.position_entropy_largest == 0


class planted:  # noqa: N801
    """Within this, at one step, a block's patch number 3 has a norm that no other has: in the prompt's row alone."""

    def __init__(self, pipeline: OpenPipeline, structure: Structure, block: int, step: int) -> None:
        self.count, self.step, self.handles = -1, step, []  # type: ignore[var-annotated]
        self.pipeline, self.structure, self.block = pipeline, structure, structure.blocks[block]

    def __enter__(self) -> None:
        def entered(*_: Any) -> None:
            self.count += 1

        def scale(_: Any, __: Any, output: Any) -> None:
            # Two traces, and one of another prompt that is given up at once, come before the first image.
            if self.count >= 3 and (self.count - 3) % STEPS == self.step:
                self.block.patches(output, 64)[self.structure.row, 3] *= 1000

        self.handles = [
            self.pipeline.transformer.register_forward_pre_hook(entered),
            self.block.module.register_forward_hook(scale),
        ]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def test_an_outlier_of_the_row_without_the_prompt_is_none(opened: dict[str, OpenPipeline]) -> None:
    pipeline = opened["sd3"]
    structure = find_structure(pipeline)
    other = Structure(structure.blocks, row=0, beside=0)
    with planted(pipeline, other, block=1, step=1):
        found = probe(pipeline, some_prompts()[:1], 0, (0.5,))
    assert found.verdict == "no outliers here"


def test_noise_levels_are_the_schedulers_own(opened: dict[str, OpenPipeline]) -> None:
    flow, diffusion = (opened[name].diffusers.scheduler for name in ("sd3", "pixart"))
    flow.set_timesteps(4)
    assert times_of(flow) == pytest.approx((1 - flow.sigmas[:-1].double()).tolist(), abs=1e-6)
    diffusion.set_timesteps(4)
    assert times_of(diffusion) == pytest.approx([1 - step / 999 for step in diffusion.timesteps.tolist()])
    assert times_of(diffusion)[0] == 0
    assert chosen_steps([0.0, 0.2, 0.9], (0.1, 0.3, 0.95)) == {0: 0.0, 1: 0.2, 2: 0.9}


def test_an_image_depends_on_seed_prompt_and_number_alone(opened: dict[str, OpenPipeline], tmp_path: Path) -> None:
    pipeline, prompts = opened["pixart"], some_prompts()[:2]
    whole, part = ImageFolder(tmp_path / "whole"), ImageFolder(tmp_path / "part")
    sample(pipeline, prompts, 0, whole)
    alone = pipeline.images(prompts[1].prompt, [seed_of(0, 1, 1)])[0]
    part.keep(0, 1, Image.new("RGB", (32, 32)))
    sample(pipeline, prompts, 0, part)
    assert Image.open(whole.image(1, 1)).tobytes() == alone.tobytes()
    assert whole.image(0, 0).read_bytes() == part.image(0, 0).read_bytes()
    assert not any(Image.open(part.image(0, 1)).tobytes()), "an image that was there was made again"
    assert len({seed_of(seed, p, k) for seed in (0, 1) for p in (0, 1) for k in (0, 1)}) == 8
    assert len({path.read_bytes() for path in whole.place.rglob("*.png")}) == 4


def run(folder: Path, prompts: Path, place: Path, *further: str) -> int:
    told = ["--prompts", str(prompts), "--device", "cpu", "--set", f"pipeline.images_per_prompt={EACH}", *ASKED]
    kept = ["--runs", str(place / "runs"), "--results", str(place / "results")]
    return main(["run", "--backbone", f"diffusers:{folder}", *told, *kept, *further])


def records(place: Path) -> list[EvaluationRecord]:
    files = sorted((place / "results" / "evaluations").glob("*.json"))
    return [EvaluationRecord.model_validate_json(file.read_bytes()) for file in files]


def test_a_run_that_was_killed_goes_on(
    folders: dict[str, Path],
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[tuple[str, int]] = []

    def counted(pipeline: OpenPipeline, prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
        made.extend((prompt, seed) for seed in seeds)
        if len(made) == 4:
            raise KeyboardInterrupt
        return pipeline.images(prompt, seeds)

    for module in ("sampling", "probed"):
        monkeypatch.setattr(f"harness.pipelines.{module}.made_by", counted)
    assert run(folders["sd3"], prompts, tmp_path, "--judge", "none") == 130
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(str(path.relative_to(folder / "images")) for path in folder.rglob("*.png")) == [
        "00000/samples/0000.png",
        "00000/samples/0001.png",
        "00001/samples/0000.png",
    ]
    assert run(folders["sd3"], prompts, tmp_path, "--judge", "none") == 0
    assert len(made) == 5, "only the image that was missing was made"
    (record,) = records(tmp_path)
    assert record.images.num_images == 4
    assert {each.images for each in record.outliers} == {2}
    assert [parse_prompt(path.read_text()) for path in sorted(folder.rglob("metadata.jsonl"))] == some_prompts()[:2]
    assert "outlier_max_over_median" in capsys.readouterr().out
    run(folders["sd3"], prompts, tmp_path, "--judge", "none")
    assert "stored result" in capsys.readouterr().out
    assert len(records(tmp_path)) == 1
    run(folders["sd3"], prompts, tmp_path, "--judge", "none", "--again")
    first, second = records(tmp_path)
    assert len(made) == 9
    assert first.images.sha256 == second.images.sha256
    assert first.outliers == second.outliers
    assert first.pipeline is not None
    assert first.pipeline.transformer_class == "SD3Transformer2DModel"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    from tests.clip_builders import save_clip
    from tests.geneval_builders import save_detector

    place = tmp_path_factory.mktemp("judge")
    return [
        "--detector",
        str(save_detector(place / "detector")),
        "--clip",
        str(save_clip(place / "clip")),
        "--detector-size",
        "checkpoint",
    ]


def test_a_pipeline_is_sampled_probed_and_scored(
    folders: dict[str, Path], prompts: Path, tmp_path: Path, judge: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folders["pixart"], prompts, tmp_path, *judge, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    (record,) = records(tmp_path)
    assert told["evaluation_id"] == record.evaluation_id
    names = {measurement.name for measurement in record.measurements}
    assert {"geneval_single_object", "geneval_two_object", "outlier_max_over_median"} <= names
    assert record.verdicts is not None
    assert record.pipeline is not None
    assert record.pipeline.scheduler == "DPMSolverMultistepScheduler"
    (score,) = [measurement for measurement in record.measurements if measurement.name == "geneval_two_object"]
    assert score.basis is not None
    assert score.basis.guidance.scale == record.pipeline.guidance_scale == 4.5
    assert run(folders["pixart"], prompts, tmp_path, *judge) == 0
    assert "stored result" in capsys.readouterr().out


def test_a_judge_that_is_not_here_is_missed_before_anything_is_sampled(
    folders: dict[str, Path], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folders["sd3"], prompts, tmp_path, "--detector", str(tmp_path / "no"), "--clip", str(tmp_path)) == 2
    assert "GenEval needs a detector and a CLIP" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_probe_alone_reports_draws_and_writes(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["--images", "2", "--out", str(tmp_path / "p.json"), "--figure", str(tmp_path / "p.png"), "--device", "cpu"]
    assert main(["probe", "--backbone", f"diffusers:{folders['sd3']}", *told, *ASKED]) == 0
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["images"] == 2
    assert {each["block"] for each in found["outliers"]} == {0, 1}
    assert "every block at the noise level of its largest norm" in capsys.readouterr().out
    assert Image.open(tmp_path / "p.png").size[0] > 100


def test_a_dry_run_says_what_would_be_done(
    folders: dict[str, Path], tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folders["pixart"], prompts, tmp_path, "--dry-run", "--judge", "none") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["pipeline"]["guidance_scale"], shown["prompts"], shown["judge"]) == (4.5, 2, None)
    assert not (tmp_path / "runs").exists()


def broken(place: Path, source: Path) -> Path:
    shutil.copytree(source, place)
    next((place / "transformer").glob("*.safetensors")).unlink()
    return place


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"_class_name": "MyPipeline", "transformer": ["diffusers", "X"]}, "MyPipeline, which diffusers"),
        ({"_class_name": "FluxPipeline", "transformer": ["my_code", "X"]}, "code that comes with weights is not run"),
        ({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"]}, "has no transformer"),
        ({"_class_name": "DiTPipeline", "transformer": ["diffusers", "X"]}, "takes no prompt"),
        (None, "has no model_index.json"),
    ],
)
def test_what_is_no_text_to_image_pipeline_is_refused(
    index: dict[str, Any] | None, said: str, tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "released"
    folder.mkdir() if index is None else builders.write_index(folder, index)
    assert run(folder, prompts, tmp_path, "--judge", "none") == 2
    assert said in capsys.readouterr().err


def test_missing_weights_are_named(
    folders: dict[str, Path], tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(broken(tmp_path / "broken", folders["pixart"]), prompts, tmp_path, "--judge", "none") == 2
    assert "transformer holds no weights" in capsys.readouterr().err


def test_a_hub_id_without_a_network_says_where_to_put_it(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", unreachable)
    assert run(Path("nobody/nothing"), prompts, tmp_path, "--judge", "none") == 2
    assert "hf download nobody/nothing --local-dir DIR" in capsys.readouterr().err


def unreachable(*_: Any, **__: Any) -> None:
    raise OSError("no network")


@pytest.mark.parametrize(
    ("further", "said"),
    [
        (["--registers", "dsr"], "registers are trained with a denoiser"),
        (["--size", "xl"], "--size has no effect"),
        (["--compile"], "--compile has no effect"),
        (["--judge", "none", "--clip", "x"], "--clip has no effect with --judge none"),
        (["--set", "pipeline.stepz=3"], "stepz"),
        (["--set", "recipe.steps=3"], "no field named 'recipe'"),
        (["--set", "pipeline.steps=0"], "pipeline.steps cannot be 0"),
    ],
)
def test_flags_without_effect_are_refused(
    further: list[str], said: str, tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "none", prompts, tmp_path, *further) == 2
    assert said in capsys.readouterr().err


def test_flags_of_pipelines_are_refused_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--backbone", "sit", "--judge", "none"]) == 2
    assert "--judge belongs to pretrained pipelines" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "said"), [("", "holds no prompt"), ("{}\n", "line 1"), (None, "there is no file")])
def test_prompts_that_are_none_are_refused(
    text: str | None, said: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.jsonl"
    if text is not None:
        path.write_text(text)
    assert run(folders["sd3"], path, tmp_path, "--judge", "none") == 2
    assert said in capsys.readouterr().err
