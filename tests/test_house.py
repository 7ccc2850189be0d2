"""How the house is kept: who may import whom, and where torch must not be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "baselines", "dsr", "leaderboard")
MOST_LINES = 400

# A module may import those of a lower layer, and of its own.
LAYERS = {
    "harness": 0,
    "harness.arguments": 0,
    "harness.attachments": 0,
    "harness.backbone": 0,
    "harness.captions": 0,
    "harness.changes": 0,
    "harness.circumstances": 0,
    "harness.claims": 0,
    "harness.comparability": 0,
    "harness.declaring": 0,
    "harness.decoders": 0,
    "harness.digits_judge": 0,
    "harness.encoder_folder": 0,
    "harness.encoder_records": 0,
    "harness.encoders": 0,
    "harness.errors": 0,
    "harness.executing": 0,
    "harness.evaluation_records": 0,
    "harness.extractors": 0,
    "harness.files": 0,
    "harness.folder": 0,
    "harness.frozen": 0,
    "harness.heartbeat": 0,
    "harness.identity": 0,
    "harness.intervals": 0,
    "harness.launch_settings": 0,
    "harness.launcher_names": 0,
    "harness.lease": 0,
    "harness.metric_definitions": 0,
    "harness.norm_map_records": 0,
    "harness.outlier_records": 0,
    "harness.outlier_words": 0,
    "harness.plain_files": 0,
    "harness.positions": 0,
    "harness.probe_figure": 0,
    "harness.processes": 0,
    "harness.progress": 0,
    "harness.prompted_images": 0,
    "harness.published": 0,
    "harness.randomness": 0,
    "harness.record_versions": 0,
    "harness.record_paths": 0,
    "harness.records": 0,
    "harness.references": 0,
    "harness.registers": 0,
    "harness.respacing": 0,
    "harness.run_state": 0,
    "harness.schedule": 0,
    "harness.shapes": 0,
    "harness.shapes.backgrounds": 0,
    "harness.shapes.drawing": 0,
    "harness.shapes.grammar": 0,
    "harness.shapes.held_out": 0,
    "harness.shapes.layout": 0,
    "harness.shapes.palette": 0,
    "harness.shapes.scenes": 0,
    "harness.signals": 0,
    "harness.spec": 0,
    "harness.stages": 0,
    "harness.slurm": 0,
    "harness.text_encoder_files": 0,
    "harness.text_config": 0,
    "harness.texts": 0,
    "harness.text_table": 0,
    "harness.torchrun": 0,
    "harness.withdrawals": 0,
    "harness.contributing.additions": 0,
    "harness.contributing.refusals": 0,
    "harness.contributing.rules": 0,
    "harness.contributing.strict_json": 0,
    "harness.contributing.verdict": 0,
    "harness.stopwatch": 0,
    "harness.tasks": 0,
    "harness.attention": 1,
    "harness.bench_records": 1,
    "harness.checkpoint": 1,
    "harness.codec": 1,
    "harness.data": 1,
    "harness.database": 1,
    "harness.database_rows": 1,
    "harness.ddpm": 1,
    "harness.denoiser": 1,
    "harness.discriminator": 1,
    "harness.distributed": 1,
    "harness.encoder": 1,
    "harness.encoder_names": 1,
    "harness.encoder_network": 1,
    "harness.encoder_weights": 1,
    "harness.evaluation_store": 1,
    "harness.extractor": 1,
    "harness.extractor_weights": 1,
    "harness.feature_store": 1,
    "harness.flow": 1,
    "harness.geneval_folder": 1,
    "harness.guidance": 1,
    "harness.image_arrays": 1,
    "harness.image_folders": 1,
    "harness.image_sets": 1,
    "harness.image_stream": 1,
    "harness.images": 1,
    "harness.inception": 1,
    "harness.latent_cache": 1,
    "harness.latent_statistics": 1,
    "harness.latents": 1,
    "harness.locks": 1,
    "harness.machine": 1,
    "harness.mae_decoder": 1,
    "harness.objective": 1,
    "harness.opponent": 1,
    "harness.perceptual": 1,
    "harness.prefetch": 1,
    "harness.prompted": 1,
    "harness.process_group": 1,
    "harness.provenance": 1,
    "harness.rae": 1,
    "harness.rae_codec": 1,
    "harness.reconstruction": 1,
    "harness.released": 1,
    "harness.replicas": 1,
    "harness.sde": 1,
    "harness.source": 1,
    "harness.record_rows": 1,
    "harness.store": 1,
    "harness.contributing.evaluated": 1,
    "harness.contributing.values": 1,
    "harness.contributing.history": 1,
    "harness.contributing.pictures": 1,
    "harness.contributing.places": 1,
    "harness.contributing.spelling": 1,
    "harness.contributing.texts": 1,
    "harness.contributing.twins": 1,
    "harness.sharded": 1,
    "harness.shapes_autoencoder": 1,
    "harness.shared_work": 1,
    "harness.stored_images": 1,
    "harness.synthetic_records": 1,
    "harness.text_cache": 1,
    "harness.text_encoders": 1,
    "harness.third_party": 1,
    "harness.tiled_extractor": 1,
    "harness.tiles": 1,
    "harness.training_draw": 1,
    "harness.vision_extractors": 1,
    "harness.weights": 1,
    "harness.workspace": 1,
    "harness.metrics.geneval": 0,
    "harness.metrics.geneval.detections": 0,
    "harness.metrics.geneval.crops": 0,
    "harness.metrics.geneval.geometry": 0,
    "harness.metrics.geneval.objects": 0,
    "harness.metrics.geneval.official_prompts": 0,
    "harness.metrics.geneval.chance": 0,
    "harness.metrics.geneval.exact_detector": 0,
    "harness.metrics.geneval.prompt": 0,
    "harness.metrics.geneval.rules": 0,
    "harness.metrics.geneval.summary": 0,
    "harness.metrics.geneval.values": 0,
    "harness.metrics.geneval.verdict_files": 0,
    "harness.metrics.geneval.verdicts": 0,
    "harness.geneval_cli": 4,
    "harness.geneval_evaluating": 3,
    "harness.geneval_judging": 2,
    "harness.geneval_report": 3,
    "harness.metrics.geneval.clip_colors": 2,
    "harness.metrics.geneval.color_prompts": 0,
    "harness.metrics.geneval.detector": 2,
    "harness.metrics.geneval.layout": 1,
    "harness.metrics": 2,
    "harness.metrics.attention_received": 2,
    "harness.metrics.clip": 2,
    "harness.metrics.judge_networks": 2,
    "harness.metrics.clip_score": 2,
    "harness.metrics.cost": 2,
    "harness.metrics.dpg": 0,
    "harness.metrics.digits": 2,
    "harness.metrics.encoder_outliers": 2,
    "harness.metrics.frechet": 2,
    "harness.metrics.inception_score": 2,
    "harness.metrics.kernel_distance": 2,
    "harness.metrics.moments": 2,
    "harness.metrics.outliers": 2,
    "harness.metrics.patch_change": 2,
    "harness.metrics.precision_recall": 2,
    "harness.metrics.token_norms": 2,
    "harness.metrics.train_digits_extractor": 2,
    "harness.moment_files": 2,
    "harness.norm_map_files": 2,
    "harness.open_extractor": 2,
    "harness.recomputing": 2,
    "harness.reference_building": 2,
    "harness.reference_import": 2,
    "harness.contributing.networks": 2,
    "harness.prompt_scoring": 2,
    "harness.registry": 2,
    "harness.sample": 2,
    "harness.scoring": 2,
    "harness.stage1": 2,
    "harness.train": 2,
    "harness.train_digits_encoder": 2,
    "harness.train_shapes_autoencoder": 2,
    "harness.contributing": 3,
    "harness.contributing.check": 3,
    "harness.contributing.check_report": 3,
    "harness.contributing.new": 3,
    "harness.contributing.validation": 3,
    "harness.contributing.indexing": 3,
    "harness.contributing.attached": 3,
    "harness.contributing.configurations": 3,
    "harness.contributing.deciding_again": 3,
    "harness.contributing.plausibility": 3,
    "harness.contributing.timed": 3,
    "harness.contributing.recounting": 3,
    "harness.contributing.judging_again": 3,
    "harness.contributing.branching": 3,
    "harness.contributing.candidates": 3,
    "harness.contributing.submission": 3,
    "harness.bench": 3,
    "harness.board": 3,
    "harness.board_bench": 3,
    "harness.board_visitor": 3,
    "harness.feature_bench": 3,
    "harness.overhead_bench": 3,
    "harness.sampling_bench": 3,
    "harness.store_bench": 3,
    "harness.training_bench": 3,
    "harness.build": 3,
    "harness.prompt_readers": 3,
    "harness.shapes_judge": 3,
    "harness.contract": 3,
    "harness.catalog": 3,
    "harness.cost_bench": 3,
    "harness.denoiser_probing": 3,
    "harness.describe": 3,
    "harness.encoder_bench": 3,
    "harness.encoder_report": 3,
    "harness.evaluating": 3,
    "harness.evaluation_report": 3,
    "harness.finding": 3,
    "harness.finding_report": 3,
    "harness.frechet_bench": 3,
    "harness.generation": 3,
    "harness.launch": 3,
    "harness.judging": 2,
    "harness.importing": 3,
    "harness.job": 3,
    "harness.arms": 3,
    "harness.norm_figure": 3,
    "harness.open_codec": 3,
    "harness.outlier_figure": 3,
    "harness.outlier_report": 3,
    "harness.perform": 3,
    "harness.preparing": 3,
    "harness.probing": 3,
    "harness.repeating": 3,
    "harness.report": 3,
    "harness.representation": 3,
    "harness.resolve": 3,
    "harness.resolve_latents": 3,
    "harness.resolve_text": 3,
    "harness.local_pool": 3,
    "harness.slots": 3,
    "harness.sweep_store": 3,
    "harness.sweep_watch": 3,
    "harness.sweep_table": 3,
    "harness.sweep_estimate": 3,
    "harness.sweep_status": 3,
    "harness.sweep_launch": 3,
    "harness.sweep": 3,
    "harness.run": 3,
    "harness.pipelines": 0,
    "harness.pipelines.identity": 0,
    "harness.pipelines.settings": 0,
    "harness.pipelines.prompt_files": 0,
    "harness.pipelines.folder": 1,
    "harness.pipelines.opening": 1,
    "harness.pipelines.structure": 2,
    "harness.pipelines.probing": 2,
    "harness.pipelines.sampling": 2,
    "harness.pipelines.probed": 3,
    "harness.pipelines.recording": 3,
    "harness.pipelines.report": 3,
    "harness.pipeline_cli": 4,
    "harness.__main__": 4,
    "harness.bench_cli": 4,
    "harness.contributing.cli": 4,
    "harness.contributing.comparison": 4,
    "harness.contributing.backbone_cli": 4,
    "harness.contributing.submission_cli": 4,
    "harness.contributing.validation_cli": 4,
    "harness.cli": 4,
    "harness.encoder_cli": 4,
    "harness.evaluation_cli": 4,
    "harness.probe_cli": 4,
    "harness.request_cli": 4,
    "harness.sweep_cli": 4,
    "harness.sweep_file": 4,
}
BASELINES_MAY = {
    "harness.attention",
    "harness.backbone",
    "harness.errors",
    "harness.denoiser",
    "harness.flow",
    "harness.frozen",
    "harness.positions",
    "harness.registers",
    "harness.spec",
}
DSR_MAY = {
    "harness.attention",
    "harness.backbone",
    "harness.denoiser",
    "harness.encoder",
    "harness.encoders",
    "harness.errors",
    "harness.files",
    "harness.frozen",
    "harness.positions",
    "harness.registers",
    "harness.spec",
}
LEADERBOARD_MAY = {
    "harness.attachments",
    "harness.claims",
    "harness.contributing.rules",
    "harness.encoder_records",
    "harness.norm_map_records",
    "harness.outlier_records",
    "harness.errors",
    "harness.files",
    "harness.frozen",
    "harness.records",
    "harness.registers",
    "harness.repeating",
    "harness.spec",
    "harness.comparability",
    "harness.database",
    "harness.database_rows",
    "harness.intervals",
    "harness.metrics.geneval.prompt",
    "harness.metrics.geneval.verdict_files",
    "harness.metrics.geneval.verdicts",
    "harness.published",
    "harness.store",
    "harness.text_table",
}
WITHOUT_TORCH = [
    "harness.cli",
    "harness.resolve",
    "harness.run",
    "harness.arms",
    "harness.launch",
    "harness.report",
    "harness.sweep_launch",
    "harness.sweep_watch",
    "harness.contributing.comparison",
    "harness.database",
    "harness.store",
    "leaderboard.app",
]


def _modules() -> list[Path]:
    return [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(file: Path) -> Iterator[str]:
    """Every module of ours that a file imports when it runs, at its top or later."""
    for node in _running(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if _is_module(name) else str(node.module) for name in inside]
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _running(child)


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("file", _modules(), ids=_name)
def test_imports_go_down(file: Path) -> None:
    name = _name(file)
    package = name.split(".")[0]
    for imported in _imports(file):
        theirs = imported.split(".")[0]
        if package == "harness":
            assert name in LAYERS, f"{name} has no layer yet: give it one"
            if theirs == "harness":
                assert LAYERS[imported] <= LAYERS[name], f"{name} imports {imported} from above"
            elif theirs == "leaderboard":
                assert LAYERS[name] >= 3, f"{name} imports the leaderboard"
            elif theirs == "dsr":
                assert LAYERS[name] == 3, f"{name} imports dsr"
            else:
                assert (theirs, name) == ("baselines", "harness.registry"), f"{name} imports {imported}"
        else:
            allowed = {"baselines": BASELINES_MAY, "dsr": DSR_MAY, "leaderboard": LEADERBOARD_MAY}[package]
            assert theirs == package or imported in allowed, f"{name} imports {imported}"


def test_every_layer_names_a_module() -> None:
    assert set(LAYERS) == {name for name in map(_name, _modules()) if name.split(".")[0] == "harness"}


def test_no_file_outgrows_a_person() -> None:
    long = {_name(f): n for f in _modules() if (n := len(f.read_text().splitlines())) > MOST_LINES}
    assert not long


def test_every_file_starts_with_what_it_is_for() -> None:
    for file in _modules():
        assert ast.get_docstring(ast.parse(file.read_text())), f"{file} does not say what it is for"


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_torch_is_imported_only_when_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_nobody_is_tied_to_this_workplace() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    words = ["../" + "shared", "../" + ".library", "/" + "work/"]
    for name in tracked.stdout.splitlines():
        file = ROOT / name
        if file.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".json"} and file.is_file():
            text = file.read_text()
            assert not [word for word in words if word in text], f"{name} names a place outside the project"
