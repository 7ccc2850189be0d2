"""Make a run's representation ready: its encoder with registers, statistics and a decoder, brought or made here."""

# N batch, C channels, H height, W width

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

import dsr
from dsr import neurons
from harness import data, decoders, reconstruction
from harness.checkpoint import Checkpoints
from harness.codec import Codec
from harness.data import Images
from harness.decoders import DecoderRecipe, DecoderShape
from harness.discriminator import Discriminator
from harness.encoder_folder import encoder_named
from harness.encoder_weights import LoadedEncoder, load
from harness.encoders import EncoderDefinition
from harness.errors import UserError
from harness.files import sha256_of, write_bytes
from harness.latent_statistics import gather, read_statistics, write_statistics
from harness.locks import alone_in
from harness.mae_decoder import MaeDecoder, fresh_decoder, load_decoder
from harness.perceptual import perceptual_of
from harness.progress import say
from harness.rae import LatentForm, whitening_of
from harness.rae_codec import FrozenEncoder, RaeCodec
from harness.records import Measurement
from harness.registers import AddedRegisters, EncoderRegisters, TrainedRegisters
from harness.resolve_latents import at_task
from harness.spec import RaeLatents, RunConfig, Task
from harness.stage1 import Lesson, train_decoder
from harness.tasks import TASKS

SEED = 0
SHOWN_DIGITS = 16
RECONSTRUCTED = 256


@dataclass(frozen=True)
class Representation:
    """What a run over an encoder's latents works with, and the files that it came from."""

    codec: RaeCodec
    encoder: LoadedEncoder
    statistics: Path
    decoder: Path

    def notes(self) -> list[str]:
        """Which encoder, statistics and decoder, by their digests."""
        count = self.encoder.encoder.definition.registers
        return [
            *[f"the encoder was trained with {count} registers, which are in this arm"] * bool(count),
            f"encoder: {self.encoder.name}, SHA-256 {self.encoder.sha256}",
            f"statistics: SHA-256 {sha256_of(self.statistics)}, of the encoder as configured here",
            f"decoder: {self.decoder.name}, SHA-256 {self.codec.weights_sha256}",
        ]


def open_representation(config: RunConfig, device: torch.device) -> Representation:
    """The representation of a run over RAE latents; what is missing of it and can be made in minutes is made.

    A decoder is trained on the encoder without test-time registers, as the published ones were: only the statistics
    follow the registers.  Raises UserError where weights cannot be had, or do not fit.
    """
    stage1 = Stage1(config, device)
    decoder_file = stage1.decoder_file()
    if decoder_file is None:
        if stage1.shape.width > decoders.SIZES["tiny"].width:
            raise UserError(
                f"there is no decoder for {stage1.plain.encoder.definition.name} ({stage1.latents.decoder}) yet",
                f"give one with --decoder FILE (RAE publishes some), or train one: {stage1.command()}",
            )
        decoder_file = stage1.train(recipe_of(config.task))
    frozen = stage1.with_registers()
    statistics_file = stage1.statistics_file(frozen)
    kept = read_statistics(statistics_file, frozen.digest)
    whitening = whitening_of(kept.mean.float().to(device), kept.variance.float().to(device))
    decoder = load_decoder(decoder_file, stage1.shape)
    images = config.task.num_training_images or len(stage1.images())
    codec = RaeCodec(frozen, whitening, decoder, images, device)
    codec.weights_sha256 = sha256_of(decoder_file)
    return Representation(codec, stage1.loaded, statistics_file, decoder_file)


def reconstruction_of(codec: Codec, images: Images) -> Measurement:
    """How much of images comes back from their latents: the mean PSNR, in decibels."""
    indices = data.spread_evenly(RECONSTRUCTED, len(images))

    def there_and_back(images_NCHW: Tensor) -> Tensor:
        latents = codec.latents(codec.moments(2 * images_NCHW - 1), images_NCHW.new_zeros(()))
        return (codec.decode(latents) + 1) / 2

    found = reconstruction.measure(there_and_back, images, indices, codec.device)
    return Measurement(
        name="reconstruction_psnr",
        value=float(np.mean(found.psnr)),
        unit="dB",
        better="higher",
        num_images=len(indices),
        note="decoded from their latents: mean over training images",
    )


class Stage1:
    """The encoder of a run, and what belongs to it in the folder `stage1` of all runs."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        assert isinstance(config.latents, RaeLatents), "stage 1 of a run without an encoder"
        self.config, self.latents, self.device = config, config.latents, device
        self.named = config.execution.encoder or config.latents.encoder
        self.folder = Path(config.execution.runs) / "stage1"
        self.loaded = _load(config, self.named)
        self.loaded.encoder.to(device)
        self.plain = self._frozen(None)
        self.shape = _shape_of(self.plain.encoder.definition, self.latents)

    def command(self) -> str:
        """What trains a decoder for this encoder, as a user types it."""
        execution, task = self.config.execution, self.config.task
        words = {
            "--encoder": self.plain.encoder.definition.name if self.is_other else self.named,
            "--encoder-weights": execution.registered_weights if self.is_other else execution.encoder_weights,
            "--task": task.name,
            "--data": execution.data,
            "--set": f"latents.decoder={self.latents.decoder}",
            "--runs": execution.runs,
        }
        return " ".join(["python -m harness stage1", *(f"{flag} {word}" for flag, word in words.items() if word)])

    @property
    def is_other(self) -> bool:
        """Whether trained registers are those of another encoder than the run names."""
        registers = self.config.registers.encoder
        return isinstance(registers, TrainedRegisters) and registers.encoder != self.latents.encoder

    def with_registers(self) -> FrozenEncoder:
        """The encoder with the run's test-time registers, from now on."""
        registers = self.config.registers.encoder
        if isinstance(registers, AddedRegisters):
            neurons.require_same_weights(registers, self.loaded.sha256)
        dsr.attach_to_encoder(registers, self.loaded.encoder)
        return self._frozen(registers)

    def images(self) -> Images:
        """The training images of the run's task."""
        place = self.config.execution.data
        folder = Path(place) if place else None
        return data.load(self.config.task, folder, Path(self.config.execution.runs) / "images")

    def decoder_file(self) -> Path | None:
        """The decoder that the user brings, or one trained here by the task's own recipe; None where there is none.

        One that was trained otherwise is a file to bring: two decoders never pass for one.
        """
        if self.config.execution.decoder is not None:
            return Path(self.config.execution.decoder)
        file = self.place_of_decoder(recipe_of(self.config.task))
        return file if file.exists() else None

    def place_of_decoder(self, recipe: DecoderRecipe, judged_by: str = "") -> Path:
        """Where the decoder is kept that this recipe makes; `judged_by` says whether not by the usual discriminator."""
        is_sure = recipe.lpips_weight == 0 or recipe.lpips == "required"
        weight = recipe.lpips_weight if is_sure else perceptual_of(recipe, self.shape, self.device).weight
        about = [self.plain.digest, self.shape.model_dump(mode="json"), self.config.task.data_fingerprint, SEED]
        digest = _digest([*about, recipe.model_dump(mode="json"), weight, judged_by])
        return self.folder / f"decoder-{digest}" / "decoder.safetensors"

    def train(
        self, recipe: DecoderRecipe, judge: Callable[[], Discriminator | None] = lambda: None, judged_by: str = ""
    ) -> Path:
        """Train a decoder on the encoder without test-time registers; a finished one is found again."""
        file = self.place_of_decoder(recipe, judged_by)
        with alone_in(file.parent):
            if file.exists():
                return file
            perceptual = perceptual_of(recipe, self.shape, self.device)
            images = self.images()
            name, count = self.plain.encoder.definition.name, len(images)
            say(f"training a decoder ({self.latents.decoder}) for {name} on {count} images, once: {file}")
            decoder = fresh_decoder(self.shape, SEED).to(self.device)
            lesson = Lesson(recipe, SEED, perceptual, judge())
            trained = train_decoder(self.plain, decoder, images, lesson, Checkpoints(file.with_name("checkpoints"), ""))
            write_bytes(file, save(_state(decoder)))
            shutil.rmtree(file.with_name("checkpoints"), ignore_errors=True)
            say(f"trained the decoder in {trained.seconds:.0f} s: L1 and more {float(trained.losses[-1]):.4f}")
        return file

    def statistics_file(self, frozen: FrozenEncoder) -> Path:
        """The statistics of the encoder as it is: those that the user brings, or gathered here in one pass."""
        if self.config.execution.statistics is not None:
            return Path(self.config.execution.statistics)
        task, file = self.config.task, self.place_of_statistics(frozen)
        with alone_in(file.parent):
            if not file.exists():
                images, partial = self.images(), file.with_name("partial.safetensors")
                say(f"gathering the statistics of {len(images)} images' latents, once: {file}")
                moments = gather(frozen, images, partial, self.device, mirrored=task.horizontal_flip)
                write_statistics(file, moments.statistics(frozen.digest, task.data_fingerprint))
                partial.unlink(missing_ok=True)
        return file

    def place_of_statistics(self, frozen: FrozenEncoder) -> Path:
        """Where the statistics of an encoder over the task's images are kept."""
        task = self.config.task
        about = {"data": task.data_fingerprint, "flip": task.horizontal_flip}
        return self.folder / f"statistics-{frozen.digest[:SHOWN_DIGITS]}-{_digest(about)}" / "statistics.safetensors"

    def _frozen(self, registers: EncoderRegisters | None) -> FrozenEncoder:
        form = LatentForm(before_norm=self.latents.before_norm)
        about = {
            "definition": self.loaded.encoder.definition.facts(),
            "weights": self.loaded.sha256,
            "form": form.model_dump(mode="json"),
            "registers": _deciding(registers),
        }
        return FrozenEncoder(self.loaded.encoder, form, _digest(about, whole=True))


def recipe_of(task: Task) -> DecoderRecipe:
    """How a task's decoder is trained: RAE's recipe for an official task, the digits' for a small one."""
    return decoders.recipe("rae" if TASKS[task.name].official else "digits")


def _load(config: RunConfig, named: str) -> LoadedEncoder:
    """The run's encoder at its task's images; where another one has the trained registers, that."""
    assert isinstance(config.latents, RaeLatents), "no encoder"
    registers, execution = config.registers.encoder, config.execution
    if not isinstance(registers, TrainedRegisters) or registers.encoder == config.latents.encoder:
        return load(at_task(encoder_named(named), config.latents, config.task), execution.encoder_weights)
    other = at_task(encoder_named(registers.encoder), config.latents, config.task)
    try:
        return load(other, execution.registered_weights)
    except UserError as error:
        raise UserError(error.problem, error.remedy.replace("--encoder-weights", "--registered-weights")) from error


def _deciding(registers: EncoderRegisters | None) -> dict[str, Any] | None:
    """What of registers decides features: trained ones are in the weights, and no list's name matters."""
    if not isinstance(registers, AddedRegisters):
        return None
    return registers.model_dump(mode="json", exclude={"neuron_list", "encoder_sha256", "rounds"})


def _shape_of(encoder: EncoderDefinition, latents: RaeLatents) -> DecoderShape:
    return DecoderShape(
        **decoders.size(latents.decoder).model_dump(),
        patch=latents.patch,
        latent_channels=encoder.width,
        tokens=encoder.grid**2,
        mean=encoder.mean,
        std=encoder.std,
    )


def _state(decoder: MaeDecoder) -> dict[str, Tensor]:
    return {name: value.contiguous().cpu() for name, value in decoder.state_dict().items()}


def _digest(about: dict[str, Any] | Sequence[Any], *, whole: bool = False) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return digest if whole else digest[:SHOWN_DIGITS]
