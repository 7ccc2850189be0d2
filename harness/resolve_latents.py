"""What a denoiser sees in a run: latents by their names, and by the content of the files that make them (no torch)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from harness import decoders
from harness.backbone import Backbone
from harness.changes import Changes
from harness.encoder_folder import encoder_named
from harness.encoders import ENCODERS, EncoderDefinition
from harness.errors import UserError
from harness.files import sha256_of
from harness.spec import Execution, Latents, RaeLatents, Task, VaeLatents
from harness.tasks import TaskDefinition

VAE_CHANNELS = 3
SHOWN_DIGITS = 12
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Seen:
    """The latents of a run, where their files are on this machine, and the encoder, where there is one."""

    latents: Latents
    execution: Execution
    encoder: EncoderDefinition | None = None


def resolve_latents(
    definition: TaskDefinition, backbone: Backbone, task: Task, execution: Execution, changes: Changes
) -> Seen:
    """The latents that a task and a backbone mean, with the user's changes.

    `execution.encoder` names another encoder.  Raises UserError where they do not suit the images, or files miss.
    """
    latents = definition.latents(backbone)
    if execution.encoder is not None:
        if backbone.latents.kind != "rae":
            raise UserError(
                f"{backbone.title} sees no encoder's latents: --encoder has no effect on it",
                "leave --encoder out, or use a rae- backbone",
            )
        latents = _latents_of(encoder_named(execution.encoder), task)
    latents = changes.apply("latents", latents, Latents)
    if isinstance(latents, VaeLatents):
        return _by_folder(latents, task, execution)
    if isinstance(latents, RaeLatents):
        return _by_files(latents, task, execution)
    return Seen(latents, execution)


def at_task(encoder: EncoderDefinition, latents: RaeLatents, task: Task) -> EncoderDefinition:
    """The encoder at the input that gives one token to each patch of the task's images."""
    side = latents.shape(task)[1]
    return encoder.model_copy(update={"image_size": side * encoder.patch})


def _latents_of(encoder: EncoderDefinition, task: Task) -> RaeLatents:
    """One token for 16 x 16 pixels under a published encoder, as RAE; another sees its own grid on the whole image."""
    is_published = encoder.name in ENCODERS and not encoder.shipped
    patch = RaeLatents(kind="rae").patch if is_published else max(task.image_size // encoder.grid, 1)
    decoder = "tiny" if task.image_size < RaeLatents(kind="rae").patch ** 2 else "vit-xl"
    return RaeLatents(kind="rae", encoder=encoder.name, channels=encoder.width, patch=patch, decoder=decoder)


def _by_folder(latents: VaeLatents, task: Task, execution: Execution) -> Seen:
    """A VAE in a folder is known by what it holds, not by its place on this machine."""
    if task.channels != VAE_CHANNELS:
        raise UserError(
            f"SD-VAE encodes RGB images, and those of {task.name} have {task.channels} channel", "use --task folder"
        )
    folder = Path(latents.weights).expanduser()
    if not folder.is_dir():
        return Seen(latents, execution)
    place = execution.model_copy(update={"vae": str(folder.resolve())})
    return Seen(latents.model_copy(update={"weights": _content(folder)}), place)


def _by_files(latents: RaeLatents, task: Task, execution: Execution) -> Seen:
    """Encoder, decoder and statistics that a user brings are known by what they hold."""
    named = execution.encoder or latents.encoder
    encoder = encoder_named(named)
    decoders.size(latents.decoder)
    if encoder.channels != task.channels:
        raise UserError(
            f"{encoder.name} sees images of {encoder.channels} channels, and those of {task.name} have {task.channels}",
            "use another task or encoder; digits-vit is the one for the digits",
        )
    if task.image_size % latents.patch:
        raise UserError(
            f"patches of {latents.patch} do not tile images of {task.image_size} x {task.image_size}",
            "set latents.patch to a divisor of the image size",
        )
    if encoder.width != latents.channels:
        raise UserError(
            f"the tokens of {encoder.name} are {encoder.width} wide, and latents.channels is {latents.channels}",
            f"use --encoder {named}, which sets it",
        )
    folder = named if Path(named).expanduser().is_dir() else None
    places = {
        "encoder": named,
        "encoder_weights": execution.encoder_weights or folder,
        "decoder": execution.decoder,
        "statistics": execution.statistics,
    }
    contents = {
        "weights": _identity(places["encoder_weights"]),
        "decoder_weights": _identity(execution.decoder),
        "statistics": _identity(execution.statistics),
    }
    known = latents.model_copy(update={"encoder": encoder.name, **contents})
    return Seen(known, execution.model_copy(update=places), at_task(encoder, known, task))


def _identity(place: str | None) -> str:
    """The name and the start of the SHA-256 of what a user brings; empty for what they do not."""
    if place is None:
        return ""
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"there is no file {place}", "give a file or a folder that is there")
    return _content(path)


def _content(path: Path) -> str:
    """`name [first digits of its SHA-256]`; a folder's weights count, in the order of their names."""
    if path.is_file():
        return f"{path.name} [{sha256_of(path)[:SHOWN_DIGITS]}]"
    files = sorted(file for file in path.rglob("*") if file.suffix in WEIGHTS and file.is_file())
    digest = hashlib.sha256(b"".join(bytes.fromhex(sha256_of(file)) for file in files)).hexdigest()
    return f"{path.resolve().name} [{digest[:SHOWN_DIGITS]}]"
