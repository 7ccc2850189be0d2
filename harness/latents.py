"""Between images and what a denoiser sees: pixels, a VAE's latents, or a stand-in's."""

# N batch, C channels of an image, Z channels of a latent, H height, W width, h and w a latent's height and width

import importlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from harness.codec import Codec, exactly
from harness.errors import UserError, disk_error
from harness.files import sha256_of
from harness.progress import say
from harness.shapes_autoencoder import ShapesCodec
from harness.spec import DrawnLatents, PixelLatents, StandInLatents, Task, VaeLatents
from harness.weights import fitted, read_tensors

CONFIG_FILE, WEIGHTS_FILE = "config.json", "diffusion_pytorch_model.safetensors"
PLACES = ("", "vae")
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
SHOWN_REASON = 200

# A network may round differently when its batch has another size, and a decoder needs much memory for each image.
# It therefore always sees this many, the last ones repeated.
VAE_TILE, ROTATION_TILE = 8, 64

ROTATION_KEY = 20260731
MOST_ROTATED = 4096


PlainLatents = PixelLatents | StandInLatents | DrawnLatents | VaeLatents


def plain_codec(latents: PlainLatents, task: Task, device: torch.device) -> Codec:
    """The codec of latents that no representation encoder makes, ready on the device.

    Raises UserError where the task's images do not suit it, or its weights cannot be had.
    """
    match latents:
        case PixelLatents():
            return PixelCodec(task, device)
        case StandInLatents():
            return StandInCodec(latents, task, device)
        case DrawnLatents():
            return ShapesCodec(latents, task, device)
        case VaeLatents():
            return VaeCodec(latents, task, device)


class PixelCodec(Codec):
    """The images themselves."""

    def __init__(self, task: Task, device: torch.device) -> None:
        super().__init__({"kind": "pixels"}, (task.channels, task.image_size, task.image_size), device)

    def moments(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW

    def latents(self, moments: Tensor, noise_NZhw: Tensor) -> Tensor:
        del noise_NZhw
        return moments

    def decode(self, latents_NZhw: Tensor) -> Tensor:
        return latents_NZhw


class StandInCodec(Codec):
    """Each patch as the channels of one latent pixel, turned by one rotation that is the same in every run."""

    def __init__(self, latents: StandInLatents, task: Task, device: torch.device) -> None:
        channels, side = latents.shape(task)
        if task.image_size % latents.patch:
            fitting = [str(patch) for patch in range(1, task.image_size + 1) if task.image_size % patch == 0]
            raise UserError(
                f"patches of {latents.patch} x {latents.patch} do not tile images of {task.image_size} x "
                f"{task.image_size}",
                f"--set latents.patch to one of {', '.join(fitting)}",
            )
        if channels > MOST_ROTATED:
            raise UserError(
                f"patches of {latents.patch} x {latents.patch} have {channels} values: their rotation would be a "
                f"matrix of {channels} x {channels}",
                f"--set latents.patch so that a patch has at most {MOST_ROTATED} values",
            )
        super().__init__({**latents.model_dump(), "rotation": ROTATION_KEY}, (channels, side, side), device)
        self._patch = latents.patch
        self._rotation = _rotation(channels).to(device)

    def moments(self, images_NCHW: Tensor) -> Tensor:
        def turn(tile: Tensor) -> Tensor:
            return _turned(self._rotation, functional.pixel_unshuffle(tile, self._patch))

        return exactly(turn, images_NCHW, ROTATION_TILE)

    def latents(self, moments: Tensor, noise_NZhw: Tensor) -> Tensor:
        del noise_NZhw
        return moments

    def decode(self, latents_NZhw: Tensor) -> Tensor:
        def turn_back(tile: Tensor) -> Tensor:
            return functional.pixel_shuffle(_turned(self._rotation.T, tile), self._patch)

        return exactly(turn_back, latents_NZhw, ROTATION_TILE)


class VaeCodec(Codec):
    """A convolutional VAE: moments are mean and standard deviation of its posterior, (2Z, h, w).

    Latents are a sample of the posterior times the scale, as DiT and SiT train; decoding divides by the scale.
    """

    is_cached = True
    draws = True

    def __init__(self, latents: VaeLatents, task: Task, device: torch.device) -> None:
        if task.image_size % latents.downsampling:
            fitting = -(-task.image_size // latents.downsampling) * latents.downsampling
            raise UserError(
                f"a VAE that makes images {latents.downsampling} times smaller needs a multiple of "
                f"{latents.downsampling} as their size, not {task.image_size}",
                f"--set task.image_size={fitting}, or choose a backbone that works in pixels",
            )
        network = _diffusers().AutoencoderKL
        place = _place_of(latents.weights)
        settings = _read_settings(place / CONFIG_FILE)
        self._vae = _load(network, place, settings)
        _check(self._vae, settings, latents, task, place)
        self._vae.to(device)
        self._scale = latents.scale
        self.weights_sha256 = sha256_of(place / WEIGHTS_FILE)
        identity = {"kind": latents.kind, "weights": self.weights_sha256, "settings": settings}
        channels, side = latents.shape(task)
        super().__init__(identity, (2 * channels, side, side), device)

    def moments(self, images_NCHW: Tensor) -> Tensor:
        def encode(tile: Tensor) -> Tensor:
            posterior = self._vae.encode(tile).latent_dist
            return torch.cat([posterior.mean, posterior.std], dim=1)

        return exactly(encode, images_NCHW, VAE_TILE)

    def latents(self, moments: Tensor, noise_NZhw: Tensor) -> Tensor:
        mean, std = moments.chunk(2, dim=1)
        return (mean + std * noise_NZhw) * self._scale

    def decode(self, latents_NZhw: Tensor) -> Tensor:
        def decode(tile: Tensor) -> Tensor:
            images: Tensor = self._vae.decode(tile / self._scale).sample
            return images

        return exactly(decode, latents_NZhw, VAE_TILE)


def _rotation(size: int) -> Tensor:
    """An orthogonal matrix, uniform among all of its size (Haar): Q of a normal matrix, with R's signs taken out."""
    random = np.random.Generator(np.random.Philox(key=ROTATION_KEY))
    q, r = np.linalg.qr(random.standard_normal((size, size)))
    return torch.from_numpy((q * np.sign(np.diagonal(r))).astype(np.float32))


def _turned(rotation: Tensor, latents_NZhw: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", rotation, latents_NZhw)


def _diffusers() -> Any:
    """diffusers, whose types say nothing; imported when it is needed, for it takes seconds and may be absent."""
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise UserError(
            f"a VAE is read with diffusers, which cannot be imported: {error}", "pip install diffusers"
        ) from error


def _place_of(weights: str) -> Path:
    """The folder that holds a VAE's two files, here or in the hub's cache."""
    folder = Path(weights).expanduser()
    if folder.is_file():
        raise UserError(f"latents.weights names a file, {folder}", f"give the folder that holds it. {_by_hand()}")
    if not folder.is_dir():
        return _fetched(weights)
    place = next((folder / name for name in PLACES if (folder / name / CONFIG_FILE).is_file()), None)
    if place is None:
        raise UserError(f"the folder {folder} holds no VAE: there is no {CONFIG_FILE} in it", _by_hand())
    if (place / WEIGHTS_FILE).is_file():
        return place
    if pickles := sorted(file.name for file in place.iterdir() if file.suffix in PICKLE_SUFFIXES):
        raise UserError(
            f"{place / pickles[0]} is a pickle: loading it could run code, so it was not loaded",
            f"put {WEIGHTS_FILE} of the same VAE beside it",
        )
    raise UserError(f"the folder {place} holds no {WEIGHTS_FILE}", _by_hand())


def _fetched(repository: str) -> Path:
    """The folder of a VAE of the hub: in the hub's cache, or fetched into it."""
    hub, errors = importlib.import_module("huggingface_hub"), importlib.import_module("huggingface_hub.errors")
    try:
        if cached := _cached(hub, repository):
            return cached
        say(f"fetching the VAE {repository} from the hub")
        for name in PLACES:
            try:
                for file in (CONFIG_FILE, WEIGHTS_FILE):
                    path = Path(hub.hf_hub_download(repository, file, subfolder=name or None))
            except errors.LocalEntryNotFoundError:
                raise
            except errors.EntryNotFoundError:
                continue
            return path.parent
    except (errors.HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:SHOWN_REASON]
        raise UserError(
            f"there is no folder {repository}, and the hub gave no VAE of that name: {reason}", _by_hand()
        ) from error
    raise UserError(f"{repository} on the hub holds no {CONFIG_FILE} beside a {WEIGHTS_FILE}", _by_hand())


def _cached(hub: Any, repository: str) -> Path | None:
    for name in PLACES:
        files = [f"{name}/{file}".lstrip("/") for file in (CONFIG_FILE, WEIGHTS_FILE)]
        paths = [hub.try_to_load_from_cache(repository, file) for file in files]
        if all(isinstance(path, str) for path in paths):
            return Path(paths[0]).parent
    return None


def _by_hand() -> str:
    return (
        f"put the VAE's {CONFIG_FILE} and {WEIGHTS_FILE} (diffusers' format) into a folder by hand and say "
        "--set latents.weights=/path/to/folder"
    )


def _read_settings(path: Path) -> dict[str, Any]:
    """What decides a VAE's network, without the notes of the program that wrote the file."""
    try:
        content = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}", "fetch it anew") from error
    except OSError as error:
        raise disk_error(path, error) from error
    kind = content.get("_class_name") if isinstance(content, dict) else None
    if kind != "AutoencoderKL":
        raise UserError(f"{path} describes {kind or 'no network'}, not an AutoencoderKL", _by_hand())
    return {key: value for key, value in content.items() if not key.startswith("_")}


def _load(network: Any, place: Path, settings: Mapping[str, Any]) -> Any:
    """The VAE in a folder, loaded strictly.  It is built without weights, so that no random number is used up."""
    try:
        with torch.device("meta"):
            vae = network.from_config(dict(settings))
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{place / CONFIG_FILE} describes no VAE that diffusers can build: {error}", "fetch it anew"
        ) from error
    try:
        state = fitted(vae, read_tensors(place / WEIGHTS_FILE), _OLD_NAMES)
    except UserError as error:
        raise UserError(f"{place / WEIGHTS_FILE}: {error.problem}", f"fetch it and {CONFIG_FILE} anew") from error
    vae.load_state_dict(state, strict=True, assign=True)
    return vae.float().eval().requires_grad_(requires_grad=False)


# Files from before diffusers 0.15, Stable Diffusion's own among them, name the middle attention's layers so.
_OLD_NAMES = {
    f"{half}.mid_block.attentions.0.{old}.{kind}": f"{half}.mid_block.attentions.0.{new}.{kind}"
    for half in ("encoder", "decoder")
    for old, new in {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}.items()
    for kind in ("weight", "bias")
}


def _check(vae: Any, settings: Mapping[str, Any], latents: VaeLatents, task: Task, place: Path) -> None:
    """Raise UserError unless the VAE is what the run's latents say, and takes the task's images."""
    config = vae.config
    downsampling = 2 ** (len(config.block_out_channels) - 1)
    if task.channels != config.in_channels or task.channels != config.out_channels:
        raise UserError(
            f"the VAE in {place} takes images of {config.in_channels} channels, the task {task.name} has "
            f"{task.channels}",
            "choose a backbone that works in pixels, or a VAE for such images (--set latents.weights=...)",
        )
    if (latents.channels, latents.downsampling) != (config.latent_channels, downsampling):
        raise UserError(
            f"the VAE in {place} makes {config.latent_channels} channels {downsampling} times smaller, not "
            f"{latents.channels} channels {latents.downsampling} times smaller",
            f"--set latents.channels={config.latent_channels} --set latents.downsampling={downsampling}",
        )
    stated = settings.get("scaling_factor") or latents.scale
    if not math.isclose(stated, latents.scale, rel_tol=1e-3):
        raise UserError(
            f"the VAE in {place} states the scale {stated}, the run {latents.scale}",
            f"--set latents.scale={stated}, or correct scaling_factor in {place / CONFIG_FILE}",
        )
    if shifts := [name for name in ("shift_factor", "latents_mean", "latents_std") if settings.get(name)]:
        raise UserError(
            f"the VAE in {place} shifts its latents ({', '.join(shifts)}), Stable Diffusion's does not",
            "choose a VAE without that",
        )
