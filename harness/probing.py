"""Probe an encoder for outlier tokens, as it is and with test-time registers."""

import json
from dataclasses import dataclass

import torch

import dsr
from dsr import neurons
from harness.encoder_folder import encoder_named
from harness.encoder_records import EncoderOutliers
from harness.encoder_weights import load_here
from harness.encoders import EncoderDefinition
from harness.errors import UserError
from harness.image_stream import at_once, open_stream
from harness.metrics.encoder_outliers import probe
from harness.registers import AddedRegisters


@dataclass(frozen=True)
class Probed:
    """What was found in an encoder as it is, and with test-time registers, where a list of neurons was given."""

    before: EncoderOutliers
    after: EncoderOutliers | None = None

    def text(self) -> str:
        """All numbers as JSON, with the verdicts."""
        both = {"before": self.before, "after": self.after}
        told = {
            name: {"verdict": found.verdict, **found.model_dump(mode="json", exclude={"examples"})}
            for name, found in both.items()
            if found is not None
        }
        return json.dumps(told, indent=1) + "\n"


def probe_encoder(
    named: str, data: str, images: int, device: torch.device, *, weights: str | None, listed: str | None
) -> Probed:
    """Probe an encoder on images of a folder; `listed` is a neuron list, "shipped" the one that comes with us.

    Raises UserError where the encoder, the images or the list cannot be had.
    """
    definition = encoder_named(named)
    registers = None if listed is None else _registers(definition, listed)
    loaded, stream = load_here(named, definition, weights, device), open_stream(data, definition, images)
    if registers is not None:
        neurons.require_same_weights(registers, loaded.sha256)
    encoder = loaded.encoder
    before = probe(encoder, stream.batches(encoder, at_once(definition)))
    if registers is None:
        return Probed(before)
    dsr.attach_to_encoder(registers, encoder)
    after = probe(encoder, stream.batches(encoder, at_once(definition)), shown_layer=before.shown_layer)
    return Probed(before, after)


def _registers(definition: EncoderDefinition, listed: str) -> AddedRegisters:
    if listed != "shipped":
        return neurons.find_for(listed, definition).registers()
    shipped = neurons.shipped_for(definition.name)
    if shipped is None:
        raise UserError(
            f"no list of register neurons of {definition.name} comes with the project",
            f"find them: python -m harness neurons find --encoder {definition.name} --data DIR --out neurons.json",
        )
    return shipped.registers()
