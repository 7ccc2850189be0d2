"""What test-time registers cost an encoder in time: a forward pass with and without them, in turns."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import dsr
from dsr import neurons
from harness import encoder_network
from harness.bench import Ratio, in_turns, ratio_of
from harness.bench_records import BenchCase
from harness.encoder import Encoder
from harness.encoder_folder import encoder_named
from harness.encoders import EncoderDefinition
from harness.errors import UserError
from harness.records import Measurement
from harness.registers import AddedRegisters


@dataclass(frozen=True)
class EncoderOverhead:
    """Seconds of a forward pass without registers, and the ratio with them, over pairs in turns."""

    encoder: str
    neuron_list: str
    batch_size: int
    pairs: int
    compiled: bool
    seconds: float
    ratio: Ratio

    def shown(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)

    def case(self) -> BenchCase:
        """For a record."""
        return BenchCase(
            title=f"{self.encoder}, test-time registers ({self.neuron_list}) over none",
            batch=self.batch_size,
            compiled=self.compiled,
            precision="float32",
            measurements=(
                Measurement(name="forward_pass_of_none", value=self.seconds, unit="s", better="lower"),
                Measurement(name="forward_pass_over_none", value=self.ratio.median, unit="ratio", better="lower"),
            ),
        )

    def report(self) -> str:
        """For a person."""
        how = "compiled" if self.compiled else "eager"
        return (
            f"{self.encoder}, batch {self.batch_size}, {how}: {self.seconds:.3f} s without registers\n"
            f"with test-time registers ({self.neuron_list}): {self.ratio} times that, "
            f"median (least to greatest) of {self.pairs} pairs"
        )


def encoder_overhead(named: str, batch_size: int, pairs: int, *, threads: int, compiled: bool) -> EncoderOverhead:
    """Time an encoder at its own input with the registers of its shipped list and without, in one process.

    Weights and images are random: they do not change the time.  Raises UserError for an encoder without a list.
    """
    if threads:
        torch.set_num_threads(threads)
    definition = encoder_named(named)
    listed = neurons.shipped_for(definition.name)
    if listed is None:
        raise UserError(
            f"no list of register neurons of {definition.name} comes with the project",
            f"use one of {', '.join(sorted({found.encoder for found in neurons.shipped()}))}",
        )
    pixels = torch.randn(batch_size, definition.channels, definition.image_size, definition.image_size)
    arms = [_forward(definition, registers, pixels, compiled=compiled) for registers in (None, listed.registers())]
    seconds = in_turns(arms, pairs, f"{definition.name} forward")
    return EncoderOverhead(
        encoder=definition.name,
        neuron_list=listed.name,
        batch_size=batch_size,
        pairs=pairs,
        compiled=compiled,
        seconds=statistics.median(plain for plain, _ in seconds),
        ratio=ratio_of(seconds),
    )


def _forward(definition: EncoderDefinition, registers: AddedRegisters | None, pixels: Tensor, *, compiled: bool) -> Any:
    torch.manual_seed(0)
    encoder = Encoder(definition, encoder_network.build(definition))
    dsr.attach_to_encoder(registers, encoder)
    network: Any = torch.compile(encoder, fullgraph=True) if compiled else encoder

    def run() -> None:
        with torch.no_grad():
            network(pixels)

    return run
