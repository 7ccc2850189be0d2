"""Carry out `stage1`: a decoder and statistics for an encoder, ahead of the runs that use them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.changes import Changes
from harness.decoders import DecoderRecipe
from harness.discriminator import Discriminator, fresh_discriminator
from harness.encoder_folder import encoder_named
from harness.encoder_weights import load_here
from harness.errors import UserError
from harness.files import sha256_of
from harness.latent_statistics import read_official_statistics, write_statistics
from harness.machine import start
from harness.rae_codec import FrozenEncoder
from harness.representation import SEED, Stage1, recipe_of
from harness.resolve import Request, resolve
from harness.resolve_latents import content
from harness.spec import RaeLatents
from harness.text_table import columns

DINO_S8 = "timm/vit_small_patch8_224.dino"


@dataclass(frozen=True)
class Preparation:
    """What is wanted of stage 1.  `recipe_changes` are FIELD=VALUE texts that begin with "recipe."."""

    recipe_changes: tuple[str, ...] = ()
    statistics_only: bool = False
    import_statistics: Path | None = None
    discriminator: str | None = None
    discriminator_weights: str | None = None


@dataclass(frozen=True)
class Prepared:
    """The files of stage 1, and the digest of the encoder that the statistics are of.

    A run finds by itself an `is_usual` decoder, and statistics unless they were imported.
    """

    encoder: str
    digest: str
    statistics: Path
    decoder: Path | None
    is_usual: bool
    is_imported: bool = False

    def shown(self) -> dict[str, Any]:
        """For machines."""
        files = {"statistics": self.statistics, "decoder": self.decoder}
        told = {name: {"path": str(file), "sha256": sha256_of(file)} for name, file in files.items() if file}
        return {"encoder": self.encoder, "encoder_digest": self.digest} | told

    def report(self) -> str:
        """For a person."""
        rows = [["encoder", f"{self.encoder}, configuration {self.digest[:16]}"], ["statistics", str(self.statistics)]]
        rows += [["decoder", str(self.decoder or "none was asked for")]]
        if self.is_imported:
            rows += [["", f"runs take them with --statistics {self.statistics}"]]
        if self.decoder is not None and not self.is_usual:
            rows += [["", f"its recipe is not the task's: runs take it with --decoder {self.decoder}"]]
        return columns(rows)


def prepare(request: Request, asked: Preparation) -> Prepared:
    """Train the decoder of a request's encoder unless that is done, and gather or import the statistics.

    Raises UserError where weights cannot be had, the recipe asks for what is not there, or training diverges.
    """
    config = resolve(request)
    if config.registers.denoiser is not None or (request.registers != "none" and config.registers.encoder is None):
        raise UserError(
            f"stage 1 knows registers in the encoder alone, and {request.registers} has others",
            "use --registers encoder, encoder-recursive or none",
        )
    if not isinstance(config.latents, RaeLatents):
        raise UserError(
            f"the task {config.task.name} sees {config.latents.kind} latents by default: there is no encoder",
            "name one with --encoder",
        )
    usual = recipe_of(config.task)
    recipe = Changes(asked.recipe_changes, ["recipe"]).apply("recipe", usual)
    stage1 = Stage1(config, start(config.execution.device, config.execution.threads))
    decoder, judged_by = None, ""
    if not asked.statistics_only and asked.import_statistics is None:
        judged_by = _identity_of_judge(recipe, asked)
        decoder = stage1.train(recipe, lambda: _discriminator(recipe, asked, stage1.device), judged_by)
    frozen = stage1.with_registers()
    if asked.import_statistics is not None:
        statistics = _import(asked.import_statistics, stage1, frozen)
    else:
        statistics = stage1.statistics_file(frozen)
    return Prepared(
        config.latents.encoder,
        frozen.digest,
        statistics,
        decoder,
        is_usual=recipe == usual and not judged_by,
        is_imported=asked.import_statistics is not None,
    )


def _discriminator(recipe: DecoderRecipe, asked: Preparation, device: torch.device) -> Discriminator | None:
    if recipe.adversarial_weight == 0:
        return None
    named = asked.discriminator or DINO_S8
    try:
        loaded = load_here(named, encoder_named(named), asked.discriminator_weights, device)
    except UserError as error:
        raise UserError(
            f"the adversarial loss needs an encoder that judges: {error.problem}",
            "give its weights with --discriminator-weights PATH, or train without: --set recipe.adversarial_weight=0",
        ) from error
    return fresh_discriminator(loaded.encoder, SEED)


def _identity_of_judge(recipe: DecoderRecipe, asked: Preparation) -> str:
    """Which discriminator a user brings; empty for the usual one, and where none judges."""
    if recipe.adversarial_weight == 0 or (asked.discriminator or asked.discriminator_weights) is None:
        return ""
    place = asked.discriminator_weights and Path(asked.discriminator_weights).expanduser()
    held = content(place) if place and place.exists() else ""
    return f"{asked.discriminator or DINO_S8} {held}"


def _import(file: Path, stage1: Stage1, frozen: FrozenEncoder) -> Path:
    """The statistics of an official file, declared to be of this encoder, in our form: a file for --statistics."""
    side = frozen.encoder.definition.grid
    found = read_official_statistics(file, (frozen.encoder.width, side, side), frozen.digest)
    place = stage1.folder / f"imported-{frozen.digest[:12]}-{sha256_of(file)[:12]}.safetensors"
    write_statistics(place, found)
    return place
