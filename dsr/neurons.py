"""Lists of register neurons: which there are, where each comes from, and how one is read and written (no torch)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from harness.encoders import EncoderDefinition
from harness.errors import UserError, disk_error, first_few
from harness.files import write_text
from harness.frozen import Fraction, Frozen, NonNegativeInt, PositiveFloat, PositiveInt
from harness.registers import AddedRegisters

SHIPPED = Path(__file__).parent / "neurons"


class Search(Frozen):
    """How register neurons are looked for (arXiv 2506.08010, as the released code of DSR has it).

    Outliers are tokens whose norm after block `layer` (-1 the last) is above `threshold`.  A neuron's score in an image
    is its mean absolute "activation" there, as published; or its "contribution": that activation times the norm of what
    the neuron writes into a token, less the same mean over the other tokens.  Where several neurons make outliers, each
    of its own, activations are diluted below those of neurons that are busy everywhere; contributions are not.

    The `top_k` of the best mean scores are kept, of the layers `lowest_layer` to `highest_layer`.  With `sparsity` a
    neuron counts only where at least that share of tokens stays below `sparsity_activation`.  `rows` says which tokens
    may be outliers: "patches", or as published "all", class token and registers too, after the mean of all tokens
    where there is no class token.
    """

    threshold: PositiveFloat
    layer: int = -1
    score: Literal["contribution", "activation"] = "contribution"
    sparsity: Fraction | None = 0.5
    sparsity_activation: float = 0.5
    lowest_layer: NonNegativeInt = 0
    highest_layer: int = -1
    top_k: PositiveInt = 50
    rows: Literal["patches", "all"] = "patches"


class Round(Frozen):
    """One pass of a search: its settings, what it saw, and the neurons that it added with their scores."""

    search: Search
    images: NonNegativeInt
    images_with_outliers: NonNegativeInt
    outlier_tokens: NonNegativeInt
    tokens: NonNegativeInt
    ranked: tuple[tuple[NonNegativeInt, NonNegativeInt, float], ...]


class NeuronList(Frozen):
    """Register neurons of an encoder, by layer, and where they come from.

    `encoder_sha256` and `data` (a fingerprint) are empty where a publication does not say them.  `first_patch` is how
    the source treats the first patch, see `harness.registers.AddedRegisters`.
    """

    format: Literal[1] = 1
    name: str
    encoder: str
    encoder_sha256: str = ""
    source: str
    data: str = ""
    rounds: PositiveInt = 1
    first_patch: Literal["treated", "kept"] = "treated"
    neurons: dict[NonNegativeInt, tuple[NonNegativeInt, ...]]
    found: tuple[Round, ...] = Field(default=())

    @model_validator(mode="after")
    def _check_distinct(self) -> "NeuronList":
        for layer, neurons in self.neurons.items():
            if len(set(neurons)) != len(neurons) or not neurons:
                raise ValueError(f"layer {layer} names a neuron twice" if neurons else f"layer {layer} names none")
        return self

    @property
    def count(self) -> int:
        """How many neurons it names."""
        return sum(len(neurons) for neurons in self.neurons.values())

    def registers(self) -> AddedRegisters:
        """Test-time registers by this list, all else at its default."""
        return AddedRegisters(
            kind="test-time",
            neuron_list=self.name,
            encoder_sha256=self.encoder_sha256,
            rounds=self.rounds,
            neurons=self.neurons,
            first_patch=self.first_patch,
        )


def merged(first: Mapping[int, tuple[int, ...]], second: Mapping[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """Both, layer by layer, the first's neurons before the second's, none twice; layers in ascending order."""
    layers = sorted({*first, *second})
    return {layer: tuple(dict.fromkeys((*first.get(layer, ()), *second.get(layer, ())))) for layer in layers}


def find_for(name: str, encoder: EncoderDefinition) -> NeuronList:
    """`find`, but no list that is of another encoder by name and does not say in which weights it was found."""
    found = find(name)
    if found.encoder != encoder.name and not found.encoder_sha256:
        raise UserError(
            f"the neurons of {found.name} are those of {found.encoder}, not of {encoder.name}",
            f"find those: python -m harness neurons find --encoder {encoder.name} --data DIR",
        )
    return found


def require_same_weights(registers: AddedRegisters, sha256: str) -> None:
    """Raise UserError where neurons were found in other weights than those of this digest."""
    if registers.encoder_sha256 not in ("", sha256):
        raise UserError(
            f"the neurons of {registers.neuron_list} were found in other weights: SHA-256 "
            f"{registers.encoder_sha256[:16]}, not {sha256[:16]}",
            "find those of these weights: python -m harness neurons find",
        )


def shipped() -> list[NeuronList]:
    """Every list that comes with the project."""
    return [read(path) for path in sorted(SHIPPED.glob("*.json"))]


def shipped_for(encoder: str, least_rounds: int = 1) -> NeuronList | None:
    """The shipped list of an encoder with the fewest rounds that are not below `least_rounds`."""
    fitting = [found for found in shipped() if found.encoder == encoder and found.rounds >= least_rounds]
    return min(fitting, key=lambda found: found.rounds, default=None)


def find(name: str) -> NeuronList:
    """A shipped list by its name, or the list in a file.  Raises UserError where there is none."""
    path = Path(name).expanduser()
    if path.is_file():
        return read(path)
    known = {found.name: found for found in shipped()}
    if name not in known:
        raise UserError(
            f"there is no neuron list {name}",
            f"give a file that `python -m harness neurons find` wrote, or one of {', '.join(known)}",
        )
    return known[name]


def check(registers: AddedRegisters, encoder: EncoderDefinition) -> None:
    """Raise UserError for a layer or a neuron that the encoder has not."""
    for layer, neurons in registers.neurons.items():
        if layer >= encoder.depth or max(neurons, default=0) >= encoder.hidden:
            raise UserError(
                f"{registers.neuron_list} names neuron {max(neurons, default=0)} of layer {layer}, and {encoder.name} "
                f"has the layers 0 to {encoder.depth - 1} with the neurons 0 to {encoder.hidden - 1}",
                f"python -m harness neurons find --encoder {encoder.name} --data DIR finds those of this encoder",
            )


def read(path: Path) -> NeuronList:
    """The list in a file.  Raises UserError for one that is damaged, or of another format."""
    try:
        content: Any = json.loads(path.read_bytes())
        return NeuronList.model_validate(content)
    except OSError as error:
        raise disk_error(path, error) from error
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'the list'}: {fault['msg']}" for fault in error.errors()]
        raise UserError(f"{path} is no neuron list: {first_few(faults, 3)}", _AS_WRITTEN) from error
    except ValueError as error:
        raise UserError(f"{path} is no neuron list: it is no JSON", _AS_WRITTEN) from error


def write(path: Path, found: NeuronList) -> None:
    """Put a list into a file, whole."""
    write_text(path, json.dumps(found.model_dump(mode="json"), indent=1) + "\n")


_AS_WRITTEN = "give a file as `python -m harness neurons find` writes it"
