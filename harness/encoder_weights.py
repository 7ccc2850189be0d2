"""Encoders with their weights: from the hub, a file or a folder, and back into a folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness import encoder_folder, encoder_network
from harness.encoder import Encoder, FinalNorm
from harness.encoder_folder import CONFIG_FILE, OWN_KEY
from harness.encoder_names import from_official
from harness.encoders import EncoderDefinition
from harness.errors import UserError
from harness.files import write_text, write_whole
from harness.progress import say
from harness.released import INDEX, locate, read_released
from harness.weights import fitted

WEIGHTS_FILE = "model.safetensors"
SHIPPED = Path(__file__).parent / "encoder_files"

# What the shapes of the weights do not show, and what computes something else where it differs.
_UNSEEN = ("heads", "epsilon", "activation")


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder, the digest of the file that its weights came from, and that file's name or hub id, never a path."""

    encoder: Encoder
    sha256: str
    name: str


def load(
    definition: EncoderDefinition, place: str | None, *, final_norm: FinalNorm = "plain", output_layer: int = -1
) -> LoadedEncoder:
    """The encoder with its weights: the published ones, or those of a local file or folder.

    Raises UserError where there are none, where they are damaged or code, and where they are not of this network.
    """
    if place is None and definition.shipped:
        path, name = shipped_file(definition), definition.name
    elif place is None:
        path, name = _published(definition)
    else:
        path, name = _local(definition, Path(place).expanduser())
    released = read_released(path)
    try:
        encoder = encoder_of(definition, released.state, final_norm=final_norm, output_layer=output_layer)
    except UserError as error:
        raise UserError(
            f"{name} is no {definition.name}: {error.problem}", "choose the encoder that the file was made for"
        ) from error
    return LoadedEncoder(encoder, released.sha256, name)


def load_here(named: str, definition: EncoderDefinition, place: str | None, device: torch.device) -> LoadedEncoder:
    """`load` onto a device; a folder that was named as the encoder holds its own weights."""
    folder = encoder_folder.folder_of(named)
    loaded = load(definition, place or (None if folder is None else str(folder)))
    loaded.encoder.to(device)
    return loaded


def encoder_of(
    definition: EncoderDefinition,
    state: Mapping[str, Tensor],
    *,
    final_norm: FinalNorm = "plain",
    output_layer: int = -1,
) -> Encoder:
    """The encoder with the weights of a state dict, under HuggingFace's names or timm's, in float32.

    It is built without weights, so that no random number is used up.  Raises UserError for keys that are missing, not
    known, or of another shape.
    """
    with torch.device("meta"):
        vit = encoder_network.build(definition)
    weights = fitted(vit, from_official(definition, state), {})
    vit.to_empty(device="cpu")
    vit.load_state_dict(weights, strict=True, assign=True)
    _fill_derived(vit)
    return Encoder(definition, vit, final_norm=final_norm, output_layer=output_layer)


def shipped_file(definition: EncoderDefinition) -> Path:
    """Where the weights are that come with the project."""
    return SHIPPED / f"{definition.name}.safetensors"


def save(encoder: Encoder, folder: Path) -> None:
    """Write an encoder's weights, under timm's names, and its definition, which `encoder_folder.definition_in` reads.

    Raises UserError where the disk is full or closed to this user.
    """
    weights = {key: value.detach().cpu().contiguous() for key, value in encoder.vit.state_dict().items()}
    write_whole(folder / WEIGHTS_FILE, lambda part: save_file(weights, part))
    own = {OWN_KEY: encoder.definition.model_dump(mode="json")}
    write_text(folder / CONFIG_FILE, json.dumps(own, indent=2, sort_keys=True) + "\n")


def _fill_derived(vit: nn.Module) -> None:
    """Rotary positions and the like, which no file holds."""
    derived = {name for name, _ in vit.named_buffers()} - set(vit.state_dict())
    for place in sorted({name.rpartition(".")[0] for name in derived}):
        module: Any = vit.get_submodule(place)
        module.init_non_persistent_buffers()


def _published(definition: EncoderDefinition) -> tuple[Path, str]:
    """The file of weights in the hub's cache, or fetched into it, and the hub id."""
    repositories = [f"timm/{definition.timm}"] * bool(definition.timm) + [definition.hub] * bool(definition.hub)
    for repository in repositories:
        if cached := _cached(repository):
            return cached, repository
    reasons = []
    for repository in repositories:
        say(f"asking the hub for {repository}")
        try:
            return locate(f"{repository}/{WEIGHTS_FILE}"), repository
        except UserError as error:
            reasons.append(error.problem)
    raise UserError(
        f"the weights of {definition.name} are not here: {'; '.join(reasons) or 'none are published'}",
        _by_hand(repositories),
    )


def _cached(repository: str) -> Path | None:
    """The file that the hub's cache got last."""
    import huggingface_hub
    import huggingface_hub.constants

    folder = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    files = folder.glob(f"snapshots/*/{WEIGHTS_FILE}")
    return max(files, key=lambda file: file.parent.stat().st_mtime, default=None)


def _by_hand(repositories: list[str]) -> str:
    source = f" of {' or '.join(repositories)}" if repositories else ""
    return f"fetch {WEIGHTS_FILE}{source} by hand and say --encoder-weights PATH, the file or the folder that holds it"


def _local(definition: EncoderDefinition, place: Path) -> tuple[Path, str]:
    if not place.exists():
        raise UserError(f"there are no weights {place}", "give --encoder-weights a file or a folder that is there")
    if not place.is_dir():
        return place, place.name
    for file in (WEIGHTS_FILE, WEIGHTS_FILE + INDEX):
        if (place / file).is_file():
            _require_same(definition, place)
            return place / file, place.resolve().name
    raise UserError(f"the folder {place} holds no {WEIGHTS_FILE}", "give a folder that holds one, or another file")


def _require_same(definition: EncoderDefinition, folder: Path) -> None:
    """Raise UserError where the folder says another dimension that its weights do not show."""
    if not (folder / CONFIG_FILE).is_file():
        return
    stated = encoder_folder.definition_in(folder)
    unseen = _UNSEEN if stated.family == definition.family else _UNSEEN[:1]
    differing = [
        f"{key} {getattr(stated, key)} for {getattr(definition, key)}"
        for key in unseen
        if getattr(stated, key) != getattr(definition, key)
    ]
    if differing:
        raise UserError(
            f"the folder {folder} holds another network than {definition.name}: {', '.join(differing)}",
            "choose the encoder that it was made for, or the folder itself as the encoder",
        )
