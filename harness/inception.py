"""Inception v3 of 2015 as a feature extractor: clean-fid's three modes of it, and torch-fidelity's.

All of them are ports of one TensorFlow graph, `classify_image_graph_def.pb`, which ADM's evaluator runs:

    pooled          pool_3:0, 2,048 numbers
    probabilities   softmax(pooled @ W), 1,008 classes, W of softmax/logits, without its bias
    spatial         mixed_6/conv:0 after its ReLU, 17 x 17 positions of 192 channels, of which the first 7; in the
                    graph's order, channels last: 2,023 numbers

mixed_6/conv is `layers.mixed_6.conv` in the TorchScript file and `Mixed_6d.branch1x1` in the ports to PyTorch's names:
mixed is Mixed_5b, mixed_3 is Mixed_6a, and so on.

Verified by tests: that features are clean-fid's and torch-fidelity's own, for networks with random weights.  Verified
whenever a TorchScript file is loaded: that its layers, run one after another, are the network that clean-fid runs.  Not
verified here, for want of the published files: that these give the numbers that TensorFlow gives.
"""

# N batch, C channels, H height, W width, F features, K classes

import importlib
import importlib.metadata
import io
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.comparability import ExtractorIdentity
from harness.errors import UserError
from harness.extractor import Extractor
from harness.extractor_weights import FLAG, VerifiedFile, find_file
from harness.extractors import ExtractorDefinition
from harness.images import Pixels
from harness.tiled_extractor import TILE, Seen, TiledExtractor, in_colour
from harness.weights import read_official

SIDE = 299
SPATIAL_CHANNELS = 7
SPATIAL_BLOCK = "mixed_6"
PROBE_SIDES = (64, 48)
PROBE_TOLERANCE = 1e-4


def open_clean_fid(
    definition: ExtractorDefinition, weights: str | None, device: torch.device, tile: int = TILE
) -> Extractor:
    """Inception as clean-fid has it in one of its modes: its resize functions, its networks, verified weights.

    Raises UserError where clean-fid is not installed, and where the weights are missing, damaged or of another network.
    """
    assert definition.file is not None
    package = _package("cleanfid.resize", "clean-fid")
    file = find_file(definition.file, weights)
    if definition.mode == "legacy_pytorch":
        network: Callable[[Tensor], Seen] = _clean_fid_port(file, device)
    else:
        network = _ScriptedInception(file, definition.file.file, device, is_resizing=definition.mode != "clean")
    with warnings.catch_warnings():  # The function silences all warnings of the process.
        resize = package.build_resizer(definition.mode)

    def prepare(pixels_CHW: Pixels) -> Tensor:
        resized = resize(np.ascontiguousarray(in_colour(pixels_CHW).transpose(1, 2, 0)))
        return torch.from_numpy(resized.transpose(2, 0, 1).astype(np.float32))

    return TiledExtractor(_identity(definition, file, f", {definition.mode}"), prepare, network, device, tile)


def open_torch_fidelity(
    definition: ExtractorDefinition, weights: str | None, device: torch.device, tile: int = TILE
) -> Extractor:
    """Inception as torch-fidelity has it, with its own resize from 8 bits, which is TensorFlow 1's.

    Raises UserError where torch-fidelity is not installed, and where the weights are missing, damaged or of another
    network.
    """
    assert definition.file is not None
    package = _package("torch_fidelity.feature_extractor_inceptionv3", "torch-fidelity")
    file = find_file(definition.file, weights)
    network = _torch_fidelity_port(package, file, device)

    def prepare(pixels_CHW: Pixels) -> Tensor:
        return torch.from_numpy(np.array(in_colour(pixels_CHW)))

    return TiledExtractor(_identity(definition, file), prepare, network, device, tile)


class _ScriptedInception:
    """The TorchScript file that clean-fid loads: inputs (N, 3, H, W) in 0..255, resized here if `is_resizing`."""

    def __init__(self, file: VerifiedFile, name: str, device: torch.device, *, is_resizing: bool) -> None:
        self._is_resizing = is_resizing
        try:
            whole = _clean_fid_script(file.path, name, is_resizing=is_resizing)
            self._layers = dict(whole.layers.named_children())
            self._classes_KF: Tensor = whole.base.output.weight.detach()
            self._require_same(whole, file)
        except (RuntimeError, AttributeError, KeyError, ValueError) as error:
            raise _other_network(file, f"{type(error).__name__}: {error}") from error
        self._layers = {name: layer.to(device) for name, layer in self._layers.items()}
        self._classes_KF = self._classes_KF.to(device)

    def __call__(self, inputs_NCHW: Tensor) -> Seen:
        images_NCHW = _resized_as_tensorflow(inputs_NCHW) if self._is_resizing else inputs_NCHW
        maps, spatial = (images_NCHW - 128) / 128, None
        with _unoptimised():
            for name, layer in self._layers.items():
                if name == SPATIAL_BLOCK:
                    spatial = _flattened(layer.conv(maps))
                maps = layer(maps)
        pooled_NF = maps.flatten(1)
        return Seen(pooled_NF, spatial, _probabilities(pooled_NF, self._classes_KF))

    def _require_same(self, whole: Any, file: VerifiedFile) -> None:
        """Raise UserError unless the layers that are run here are what clean-fid runs."""
        height, width = PROBE_SIDES if self._is_resizing else (SIDE, SIDE)
        probe = torch.arange(3 * height * width, dtype=torch.float32).remainder(251).reshape(1, 3, height, width)
        with torch.inference_mode():
            wanted, seen = whole(probe), self(probe)
        if seen.spatial is None:
            raise _other_network(file, f"it has no {SPATIAL_BLOCK}")
        if not torch.allclose(
            seen.pooled, wanted, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE * float(wanted.abs().max())
        ):
            raise _other_network(file, "its layers are not run one after another")


class _PortedInception:
    """A port to PyTorch's names: `pooled` runs the whole network, on the way of which lies `spatial`."""

    def __init__(self, pooled: Callable[[Tensor], Tensor], spatial: nn.Module, classes_KF: Tensor) -> None:
        self._pooled, self._classes_KF = pooled, classes_KF
        self._maps: list[Tensor] = []
        spatial.register_forward_hook(self._keep)

    def __call__(self, inputs_NCHW: Tensor) -> Seen:
        pooled_NF = self._pooled(inputs_NCHW)
        return Seen(pooled_NF, _flattened(self._maps.pop()), _probabilities(pooled_NF, self._classes_KF))

    def _keep(self, _: nn.Module, __: Any, maps_NCHW: Tensor) -> None:
        self._maps.append(maps_NCHW)


def _clean_fid_script(path: Path, name: str, *, is_resizing: bool) -> Any:
    """clean-fid's class around the TorchScript file: it opens it under its published name only, and never fetches."""
    module = _package("cleanfid.inception_torchscript", "clean-fid")
    with TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore", category=FutureWarning):
        (Path(folder) / name).symlink_to(path.resolve())
        return module.InceptionV3W(folder, download=False, resize_inside=is_resizing).eval()


def _clean_fid_port(file: VerifiedFile, device: torch.device) -> _PortedInception:
    module = _package("cleanfid.inception_pytorch", "clean-fid")
    state = dict(read_official(file.path))
    # The class has no way to be given weights: it asks a function for them, which would fetch them unchecked.
    asked = mock.patch.object(module, "load_state_dict_from_url", return_value=state)
    with asked, warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        network = _strictly(file, lambda: module.InceptionV3(output_blocks=[3], resize_input=False))
    network.to(device).eval()
    # Blocks 2 of the class are Mixed_5b, 5c, 5d, 6a, 6b, 6c, 6d, 6e.
    return _PortedInception(
        lambda images_NCHW: network(images_NCHW / 255)[0].flatten(1),
        network.blocks[2][6].branch1x1,
        state["fc.weight"].to(device),
    )


def _torch_fidelity_port(module: ModuleType, file: VerifiedFile, device: torch.device) -> _PortedInception:
    # The class reads a file in a way that could run code: it is given one that was written here, in memory.
    plain = io.BytesIO()
    torch.save(dict(read_official(file.path)), plain)
    plain.seek(0)
    with torch.random.fork_rng(devices=[]):
        network = _strictly(
            file,
            lambda: module.FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=plain
            ),
        )
    network.to(device)
    return _PortedInception(lambda pixels_NCHW: network(pixels_NCHW)[0], network.Mixed_6d.branch1x1, network.fc.weight)


def _strictly(file: VerifiedFile, build: Callable[[], Any]) -> Any:
    """A network that loads its weights while it is built.  Raises UserError where they are not its own."""
    try:
        return build()
    except RuntimeError as error:
        raise _other_network(file, " ".join(str(error).split())[:160]) from error


def _unoptimised() -> AbstractContextManager[None]:
    """torch learns from the first passes of a script how to optimise the later ones, which must give the same bits."""
    jit: Any = torch.jit
    context: AbstractContextManager[None] = jit.optimized_execution(should_optimize=False)
    return context


def _resized_as_tensorflow(images_NCHW: Tensor) -> Tensor:
    """(N, C, H, W) to 299 x 299 as TensorFlow 1 does: bilinear, the corners of the first pixels laid on each other."""
    N, C, H, W = images_NCHW.shape
    shift_23 = torch.tensor([[1, 0, 1 / W - 1 / SIDE], [0, 1, 1 / H - 1 / SIDE]], device=images_NCHW.device)
    grid = functional.affine_grid(shift_23.expand(N, 2, 3), [N, C, SIDE, SIDE], align_corners=False)
    return functional.grid_sample(images_NCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _flattened(maps_NCHW: Tensor) -> Tensor:
    return maps_NCHW[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


def _probabilities(pooled_NF: Tensor, classes_KF: Tensor) -> Tensor:
    return functional.linear(pooled_NF, classes_KF).softmax(dim=1)


def _identity(definition: ExtractorDefinition, file: VerifiedFile, mode: str = "") -> ExtractorIdentity:
    version = f"{definition.family} {importlib.metadata.version(definition.family)}{mode}"
    return ExtractorIdentity(name=definition.name, version=version, weights_sha256=file.sha256)


def _package(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"this extractor is {package}'s, which cannot be imported: {error}", f"pip install {package}"
        ) from error


def _other_network(file: VerifiedFile, reason: str) -> UserError:
    return UserError(
        f"{file.path} is not the Inception of 2015 that this extractor needs: {reason}".splitlines()[0],
        f"give {FLAG} the file that is published for it, or leave the flag out",
    )
