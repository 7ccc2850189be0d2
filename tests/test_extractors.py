"""Feature extractors: the same features as their own libraries, in any batch, from weights that are the right ones."""

import copy
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from cleanfid import features as clean_fid_features
from cleanfid import inception_pytorch
from cleanfid.fid import get_files_features
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

from harness.data import digits
from harness.encoders import ENCODERS, IMAGENET_MEAN, IMAGENET_STD
from harness.errors import UserError
from harness.extractor import Extractor, Features
from harness.extractor_weights import FLAG
from harness.extractors import find, names
from harness.files import sha256_of
from harness.images import Pixels, to_unit
from harness.inception import open_clean_fid, open_torch_fidelity
from harness.metrics import digits as digits_metric
from harness.open_extractor import open_extractor
from harness.vision_extractors import open_clip, open_dinov2, open_timm
from tests.extractor_builders import images, write_port, write_script

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
TILE = 4
# Features are sums of many products, added up in another order where the batch differs: a few float32 roundings.
ROUNDINGS = 1e-5
SCRIPTED = ("inception-clean", "inception-legacy-tensorflow")
PORTED = ("inception-legacy-pytorch", "inception-torch-fidelity")
KINDS = (*SCRIPTED, *PORTED, "dinov2-l", "clip-l", "timm/test_resnet", "timm/test_vit", "digits")
SMALL_DINOV2 = ENCODERS["dinov2-l"].model_copy(
    update={"image_size": 56, "table": 6, "width": 24, "depth": 2, "heads": 3, "hidden": 96}
)
SMALL_CLIP = ENCODERS["clip-l"].model_copy(
    update={"image_size": 42, "table": 3, "width": 24, "depth": 2, "heads": 3, "hidden": 40}
)


class Files:
    """The weights of every kind, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: dict[str, Extractor] = {}
        self.script, self.scripted = write_script(folder)
        self.port = write_port(folder)
        torch.manual_seed(1)
        dinov2: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 14}
        self.dinov2: Any = Dinov2Model(Dinov2Config(**dinov2, image_size=84))
        clip: dict[str, Any] = {**dinov2, "intermediate_size": 40, "projection_dim": 16, "image_size": 42}
        self.clip: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**clip))
        models: dict[str, Any] = {"dinov2": self.dinov2, "clip": self.clip}
        for kind, model in models.items():
            model.eval().save_pretrained(folder / kind)

    def open(self, name: str) -> Extractor:
        """The extractor of a name, opened once."""
        if name not in self.opened:
            self.opened[name] = self.open_anew(name)
        return self.opened[name]

    def open_anew(self, name: str) -> Extractor:
        if name in SCRIPTED:
            return open_clean_fid(find(name), str(self.script), CPU, TILE)
        if name in PORTED:
            opener = open_clean_fid if name == "inception-legacy-pytorch" else open_torch_fidelity
            return opener(find(name), str(self.port), CPU, TILE)
        if name == "dinov2-l":
            return open_dinov2(find(name), str(self.folder / "dinov2"), CPU, TILE, SMALL_DINOV2)
        if name == "clip-l":
            return open_clip(find(name), str(self.folder / "clip"), CPU, TILE, SMALL_CLIP)
        if name.startswith("timm/"):
            return open_timm(find(name), str(self.timm(name)), CPU, TILE)
        return open_extractor(name, None, CPU)

    def timm(self, name: str) -> Path:
        path = self.folder / f"{name.rpartition('/')[2]}.safetensors"
        if not path.exists():
            torch.manual_seed(2)
            save_file(timm.create_model(name.rpartition("/")[2]).state_dict(), path)
        return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return images()


def pixels_for(name: str) -> Pixels:
    """Images that an extractor takes; of the digits more than one tile."""
    return digits().pixels(np.arange(270)) if name == "digits" else images()


def assert_close(ours: Any, theirs: Any) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert float(theirs.std(axis=0).max()) > 0, "these features tell no image from another"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ROUNDINGS * float(np.abs(theirs).max()))


def assert_same(ours: Features, theirs: Features) -> None:
    for one, other in zip(vars(ours).values(), vars(theirs).values(), strict=True):
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)


def rows_of(features: Features, rows: slice) -> Features:
    return Features(*(None if part is None else part[rows] for part in vars(features).values()))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", KINDS)
def test_features_of_an_image_do_not_depend_on_the_batch(files: Files, name: str) -> None:
    extractor, pixels = files.open(name), pixels_for(name)
    whole = extractor.extract(pixels)
    for rows in (slice(0, 1), slice(0, 3), slice(1, 6), slice(len(pixels) - 1, None)):
        assert_same(extractor.extract(pixels[rows]), rows_of(whole, rows))
    assert not np.array_equal(whole.pooled[0], whole.pooled[1])


@pytest.mark.parametrize("name", KINDS)
def test_an_extractor_gives_what_its_definition_says(files: Files, name: str) -> None:
    seen, definition = files.open(name).extract(pixels_for(name)[:2]), find(name)
    assert (seen.spatial is not None) == definition.spatial
    assert (seen.probabilities is not None) == definition.probabilities
    for part in vars(seen).values():
        assert part is None or (part.dtype == np.float32 and len(part) == 2 and part.ndim == 2)
    if seen.probabilities is not None:
        np.testing.assert_allclose(seen.probabilities.sum(1), 1, atol=1e-5)
    if name.startswith("inception"):
        assert seen.pooled.shape[1] == 2048
        assert seen.spatial is not None
        assert seen.spatial.shape[1] == 17 * 17 * 7


@pytest.mark.parametrize("name", KINDS)
def test_opening_an_extractor_uses_up_no_random_number(files: Files, name: str) -> None:
    files.open(name)
    before = torch.get_rng_state()
    files.open_anew(name)
    assert torch.equal(torch.get_rng_state(), before)


def clean_fids_own(files: Files, mode: str, paths: list[str]) -> Any:
    """Features by clean-fid's own pipeline, from image files."""
    if mode == "legacy_pytorch":
        state = torch.load(files.port)
        with mock.patch.object(inception_pytorch, "load_state_dict_from_url", return_value=state):
            model = clean_fid_features.build_feature_extractor(mode, CPU, use_dataparallel=False)
    else:
        model = InceptionV3W(str(files.folder), download=False, resize_inside=mode == "legacy_tensorflow").eval()
    return get_files_features(paths, model, num_workers=0, batch_size=2, device=CPU, mode=mode, verbose=False)


@pytest.mark.parametrize("name", [*SCRIPTED, "inception-legacy-pytorch"])
def test_features_are_clean_fids_own(files: Files, pixels: Pixels, name: str, tmp_path: Path) -> None:
    paths = []
    for index, image in enumerate(pixels):
        paths.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(image.transpose(1, 2, 0)).save(paths[-1])
    assert_close(files.open(name).extract(pixels).pooled, clean_fids_own(files, find(name).mode, paths))


def test_features_are_torch_fidelitys_own(files: Files, pixels: Pixels) -> None:
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(files.port)
    )
    pooled, logits = theirs(torch.from_numpy(pixels))
    ours = files.open("inception-torch-fidelity").extract(pixels)
    assert_close(ours.pooled, pooled)
    assert_close(ours.probabilities, logits.softmax(1))


def test_class_probabilities_are_the_scripts_own_without_bias(files: Files, pixels: Pixels) -> None:
    jit: Any = torch.jit
    theirs = jit.load(files.script)(torch.from_numpy(pixels), no_output_bias=True)
    assert_close(files.open("inception-legacy-tensorflow").extract(pixels).probabilities, theirs.detach())


def test_spatial_features_of_the_script_are_its_seventeenth_maps_channels_last(files: Files, pixels: Pixels) -> None:
    network: Any = copy.deepcopy(files.scripted)
    maps: list[Tensor] = []
    network.layers.mixed_6.conv.register_forward_hook(lambda _, __, out: maps.append(out))
    network(torch.from_numpy(pixels))
    wanted = maps[0].detach().numpy().transpose(0, 2, 3, 1)[..., :7].reshape(len(pixels), -1)
    assert_close(files.open("inception-legacy-tensorflow").extract(pixels).spatial, wanted)


def test_spatial_features_of_the_ports_are_the_first_branch_of_mixed_6d(files: Files, pixels: Pixels) -> None:
    network: Any = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(files.port))
    maps: list[Tensor] = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda _, __, out: maps.append(out))
    network(torch.from_numpy(pixels))
    wanted = maps[0].numpy().transpose(0, 2, 3, 1)[..., :7].reshape(len(pixels), -1)
    assert_close(files.open("inception-torch-fidelity").extract(pixels).spatial, wanted)


def test_both_ports_name_the_same_place_spatial(files: Files) -> None:
    pixels = np.full((1, 3, 299, 299), 128, np.uint8)
    of_pytorch_fid, of_torch_fidelity = (files.open(name).extract(pixels) for name in PORTED)
    # Grey of 128 is 0 for torch-fidelity and 0.004 for pytorch-fid: close, where another place would be far.
    assert of_pytorch_fid.spatial is not None
    assert of_torch_fidelity.spatial is not None
    difference = np.abs(of_pytorch_fid.spatial - of_torch_fidelity.spatial).max()
    assert difference < 0.1 * np.abs(of_torch_fidelity.spatial).max()


def test_a_script_that_adds_something_of_its_own_is_refused(tmp_path: Path) -> None:
    path, _ = write_script(tmp_path, shift=1.0)
    with pytest.raises(UserError, match="not the Inception of 2015"):
        open_clean_fid(find("inception-legacy-tensorflow"), str(path), CPU)


@pytest.mark.parametrize("name", [*SCRIPTED, *PORTED])
def test_a_file_of_another_network_is_refused(files: Files, name: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(3, 4)}, path)
    with pytest.raises(UserError, match="not the Inception of 2015"):
        open_extractor(name, str(path), CPU)


class Code:
    """What a pickle runs when it is loaded carelessly."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", [*PORTED, "dinov2-l", "clip-l", "timm/test_vit"])
def test_a_file_of_weights_runs_no_code(name: str, tmp_path: Path) -> None:
    torch.save({"fc.weight": Code(tmp_path / "ran")}, tmp_path / "code.pth")
    with pytest.raises(UserError):
        open_extractor(name, str(tmp_path / "code.pth"), CPU)
    assert not (tmp_path / "ran").exists()


def test_dinov2_is_the_class_token_of_images_that_pillow_resized(files: Files, pixels: Pixels) -> None:
    at_table = SMALL_DINOV2.model_copy(update={"image_size": 84})
    resized = [Image.fromarray(image.transpose(1, 2, 0)).resize((84, 84), Image.Resampling.BICUBIC) for image in pixels]
    unit = torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        theirs = files.dinov2((unit - mean) / std).last_hidden_state[:, 0]
    ours = open_dinov2(find("dinov2-l"), str(files.folder / "dinov2"), CPU, TILE, at_table).extract(pixels)
    assert_close(ours.pooled, theirs)


def test_dinov2s_table_is_resized_with_its_own_offset(files: Files) -> None:
    from harness.vision_extractors import _table_as_dinov2

    # A slope shows at which positions the table is read: torch's bicubic kernel keeps it to 0.05, away from the
    # borders, where without the offset the last of these positions would be 0.19 away.
    slope = torch.arange(37.0).expand(37, 37).reshape(1, -1, 1)
    table = torch.cat([torch.full((1, 1, 1), -5.0), slope], dim=1)
    resized = _table_as_dinov2(table, ENCODERS["dinov2-l"])
    assert resized.shape == (1, 257, 1)
    assert resized[0, 0] == -5
    read = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    torch.testing.assert_close(resized[0, 1:].reshape(16, 16)[3, 2:-2], read[2:-2], atol=0.06, rtol=0)


def test_clip_is_transformers_embedding_of_images_resized_as_cmmd_does(files: Files, pixels: Pixels) -> None:
    unit = torch.from_numpy(pixels) / 255
    resized = functional.interpolate(unit, size=(42, 42), mode="bicubic")
    mean, std = (torch.tensor(each)[:, None, None] for each in (SMALL_CLIP.mean, SMALL_CLIP.std))
    with torch.no_grad():
        embedded = files.clip((resized - mean) / std).image_embeds
    theirs = embedded / embedded.norm(dim=-1, keepdim=True)
    assert_close(files.open("clip-l").extract(pixels).pooled, theirs)


def test_clip_without_its_projection_is_refused(files: Files, tmp_path: Path) -> None:
    state = {key: value for key, value in files.clip.state_dict().items() if "projection" not in key}
    save_file(state, tmp_path / "tower.safetensors")
    with pytest.raises(UserError, match="holds no projection"):
        open_clip(find("clip-l"), str(tmp_path / "tower.safetensors"), CPU, TILE, SMALL_CLIP)


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "timm/test_convnext"])
def test_any_model_of_timms_gives_its_own_pooled_features(files: Files, pixels: Pixels, name: str) -> None:
    model: Any = timm.create_model(name.removeprefix("timm/"), checkpoint_path=str(files.timm(name))).eval()
    data: Any = timm.data
    transform = data.create_transform(**data.resolve_model_data_config(model), is_training=False)
    inputs = torch.stack([transform(Image.fromarray(image.transpose(1, 2, 0))) for image in pixels])
    with torch.no_grad():
        theirs = model.forward_head(model.forward_features(inputs), pre_logits=True)
    assert_close(files.open(name).extract(pixels).pooled, theirs)


def test_a_model_that_timm_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"did you mean resnet18|did you mean .*resnet"):
        open_extractor("timm/resnet181", None, CPU)
    with pytest.raises(UserError, match="timm has no weights nowhere of resnet18"):
        open_extractor("timm/resnet18.nowhere", None, CPU)


def test_weights_of_another_network_are_refused_by_name(files: Files) -> None:
    for name in ("dinov2-l", "timm/resnet18"):
        with pytest.raises(UserError, match=f"is no {name}"):
            open_extractor(name, str(files.timm("timm/test_vit")), CPU)


def test_digits_are_seen_as_fd_digits_sees_them() -> None:
    pixels = digits().pixels(np.arange(270))
    seen = open_extractor("digits", None, CPU).extract(pixels)
    with torch.no_grad():
        features = digits_metric.extractor().features(torch.from_numpy(to_unit(pixels)))
        classes = digits_metric.extractor().classes(features).argmax(1)
    np.testing.assert_allclose(seen.pooled, features.numpy(), rtol=1e-5, atol=1e-5)
    assert seen.probabilities is not None
    assert np.array_equal(seen.probabilities.argmax(1), classes.numpy())


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 8, 8)])
def test_digits_refuses_what_is_no_digit(shape: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="grey images of 8 x 8"):
        open_extractor("digits", None, CPU).extract(np.zeros((2, *shape), np.uint8))


def test_shipped_weights_cannot_be_replaced(files: Files) -> None:
    with pytest.raises(UserError, match=FLAG):
        open_extractor("digits", str(files.port), CPU)


@pytest.mark.parametrize("name", ["inception-clean", "inception-torch-fidelity", "dinov2-l", "clip-l", "timm/test_vit"])
def test_grey_is_seen_as_three_equal_channels(files: Files, pixels: Pixels, name: str) -> None:
    extractor = files.open(name)
    assert_same(extractor.extract(pixels[:2, :1]), extractor.extract(pixels[:2, :1].repeat(3, axis=1)))
    with pytest.raises(UserError, match="2 channels"):
        extractor.extract(pixels[:2, :2])


def test_an_identity_names_library_mode_and_weights(files: Files) -> None:
    clean = files.open("inception-clean").identity
    assert clean.version == f"clean-fid {importlib.metadata.version('clean-fid')}, clean"
    assert clean.weights_sha256 == sha256_of(files.script)
    identities = [files.open(name).identity for name in KINDS]
    assert len({(each.version, each.weights_sha256) for each in identities}) == len(KINDS)
    assert "160 x 160 bicubic, center 0.95" in files.open("timm/test_vit").identity.version


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cleanfid.resize", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, package in (("inception-clean", "clean-fid"), ("inception-torch-fidelity", "torch-fidelity")):
        with pytest.raises(UserError, match=f"pip install {package}"):
            open_extractor(name, None, CPU)


def test_the_catalogue_needs_no_torch_and_knows_its_names() -> None:
    code = "import sys, harness.extractors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert [find(name).name for name in names()] == names()
    assert find("timm/resnet18").family == "timm"
    for unknown in ("inception", "timm/", "clip"):
        with pytest.raises(UserError, match="no extractor named"):
            find(unknown)
