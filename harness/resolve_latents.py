"""What a denoiser sees in a run: latents by their names, and by the content of the files that make them (no torch)."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from harness import decoders
from harness.backbone import Backbone
from harness.changes import Changes
from harness.encoder_folder import encoder_named, folder_of
from harness.encoders import EncoderDefinition
from harness.errors import UserError
from harness.files import sha256_of
from harness.registers import RegisterConfig, TrainedRegisters
from harness.spec import Execution, Latents, RaeLatents, Task, VaeLatents
from harness.tasks import TaskDefinition

VAE_CHANNELS = 3
SHOWN_DIGITS = 12
SAFE = ".safetensors"
WEIGHTS = (SAFE, ".pt", ".pth", ".bin")


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
    if isinstance(latents, RaeLatents):
        return _by_files(latents, task, execution)
    _refuse_files(backbone, execution)
    return _by_folder(latents, task, execution) if isinstance(latents, VaeLatents) else Seen(latents, execution)


def with_registered_weights(registers: RegisterConfig, seen: Seen) -> RegisterConfig:
    """The configuration with the weights that a user brings for the encoder with trained registers, by content.

    Raises UserError where no other encoder than the run's own has them.
    """
    place = _there(seen.execution.registered_weights)
    if place is None:
        return registers
    in_encoder = registers.encoder
    if not isinstance(in_encoder, TrainedRegisters) or seen.encoder is None or in_encoder.encoder == seen.encoder.name:
        raise UserError(
            "--registered-weights are those of the same encoder trained with registers, and this run needs none",
            "use --encoder-weights",
        )
    return registers.model_copy(update={"encoder": in_encoder.model_copy(update={"weights": content(place)})})


def at_task(encoder: EncoderDefinition, latents: RaeLatents, task: Task) -> EncoderDefinition:
    """The encoder at the input that gives one token to each patch of the task's images."""
    side = latents.shape(task)[1]
    return encoder.model_copy(update={"image_size": side * encoder.patch})


def _refuse_files(backbone: Backbone, execution: Execution) -> None:
    """Raise UserError for a file that nothing would read."""
    places = {
        "--encoder-weights": execution.encoder_weights,
        "--registered-weights": execution.registered_weights,
        "--decoder": execution.decoder,
        "--statistics": execution.statistics,
    }
    if given := [flag for flag, place in places.items() if place is not None]:
        raise UserError(
            f"{backbone.title} sees no encoder's latents here: {', '.join(given)} would have no effect",
            "leave it out, or use a rae- backbone with --encoder",
        )


def _latents_of(encoder: EncoderDefinition, task: Task) -> RaeLatents:
    """One token for 16 x 16 pixels of a large image, as RAE; of a small one the encoder sees its own grid."""
    usual = RaeLatents(kind="rae").patch
    is_large = task.image_size >= usual**2
    patch = usual if is_large else max(task.image_size // encoder.grid, 1)
    decoder = "vit-xl" if is_large else "tiny"
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
    return Seen(latents.model_copy(update={"weights": content(folder)}), place)


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
    if latents.weights:
        raise UserError("latents.weights follows from the encoder", "use --encoder-weights PATH")
    folder = folder_of(named)
    weights = _there(execution.encoder_weights) or folder
    decoder, statistics = (_file(place) for place in (execution.decoder, execution.statistics))
    contents = {
        "weights": content(weights) if weights else "",
        "decoder_weights": content(decoder) if decoder else "",
        "statistics": content(statistics) if statistics else "",
    }
    if folder is not None and weights == folder:
        contents["weights"] = _with_definition(encoder, contents["weights"])
    known = latents.model_copy(update={"encoder": encoder.name, **contents})
    places = {"encoder_weights": weights, "decoder": decoder, "statistics": statistics}
    told = {name: None if path is None else str(path) for name, path in places.items()}
    return Seen(known, execution.model_copy(update={"encoder": named, **told}), at_task(encoder, known, task))


def _with_definition(encoder: EncoderDefinition, weights: str) -> str:
    """What a folder holds, with what its config.json says."""
    name, _, digest = weights.rpartition(" ")
    both = hashlib.sha256((digest + json.dumps(encoder.facts(), sort_keys=True)).encode()).hexdigest()
    return f"{name} [{both[:SHOWN_DIGITS]}]"


def _there(place: str | None) -> Path | None:
    """What a user brings.  Raises UserError where it is not there."""
    if place is None:
        return None
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"there is no file {place}", "give a file or a folder that is there")
    return path


def _file(place: str | None) -> Path | None:
    path = _there(place)
    if path is not None and not path.is_file():
        raise UserError(f"{place} is a folder", "give the file in it")
    return path


def content(path: Path) -> str:
    """`name [first digits of its SHA-256]`; a folder's weights count, in the order of their names."""
    if path.is_file():
        return f"{path.name} [{sha256_of(path)[:SHOWN_DIGITS]}]"
    kept = [file for file in path.rglob("*") if file.suffix in WEIGHTS and file.is_file()]
    files = sorted([file for file in kept if file.suffix == SAFE] or kept)
    digest = hashlib.sha256(b"".join(bytes.fromhex(sha256_of(file)) for file in files)).hexdigest()
    return f"{path.resolve().name} [{digest[:SHOWN_DIGITS]}]"
