"""Weights that others released: where they are, and the official state dict in each of their formats."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError, first_few
from harness.positions import sin_cos_2d
from harness.weights import SHOWN_KEYS, Row, compare, find_state, read_tensors

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
INDEX = ".index.json"
HUB_SECONDS = 10

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/.+)?")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
_DIFFUSERS_FILES = tuple(f"diffusion_pytorch_model{end}{index}" for end in SUFFIXES for index in ("", INDEX))
_BY_HAND = "download the file elsewhere, and give its path here"

_DIFFUSERS_ENDS = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
_DIFFUSERS_BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
# diffusers keeps a copy of these in every block.
_DIFFUSERS_CONDITION = {
    "norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "norm1.emb.class_embedder.embedding_table": "y_embedder.embedding_table",
}
_DIFFUSERS_CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
_DIFFUSERS_MUST = {
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "norm_elementwise_affine": False,
    "attention_bias": True,
}
_DIFFUSERS_COUNTS = (
    "sample_size",
    "patch_size",
    "in_channels",
    "num_layers",
    "num_embeds_ada_norm",
    "num_attention_heads",
    "attention_head_dim",
)
_DIFFUSERS_EPSILONS = (1e-5, 1e-6)


@dataclass(frozen=True)
class Released:
    """An official state dict, and where it came from.

    `entry` says which part of the file it is and what was done to it; `sha256` is of the file (of a sharded one: of
    its shards, in the order of their names); `name` is a hub id or a file's name, never a path; `network` is what the
    release says of its dimensions, under our names: a state dict alone says nothing of its heads.
    """

    state: Mapping[str, Tensor]
    entry: str
    sha256: str
    name: str
    network: Mapping[str, int] = field(default_factory=dict)


def locate(text: str) -> Path:
    """The file or folder that a user means: one that exists, or `owner/name` or `owner/name/file` on the hub.

    Raises UserError where there is none, or several; without a network within seconds, from the hub's cache if it can.
    """
    path = Path(text).expanduser()
    if text and path.exists():
        return path
    owner, _, inside = text.partition("/")
    is_file_here = path.suffix in SUFFIXES and "/" not in inside
    if not _HUB_ID.fullmatch(text) or ".." in path.parts or is_file_here or Path(owner).exists():
        raise UserError(
            f"there is no weights file {text}",
            "give the path of a .pt or .safetensors file or of a diffusers folder, or a hub id: owner/name or "
            "owner/name/file.pt",
        )
    name, _, file = inside.partition("/")
    return _fetch(f"{owner}/{name}", file.strip("/"))


def read_released(path: Path) -> Released:
    """The official state dict in a file or folder, whichever format it was released in.

    Raises UserError for what is missing, damaged, code, an adapter, or not one state dict.
    """
    chosen = path
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for depth in ("*", "transformer/*") for file in path.glob(depth)]
        chosen = path / choose(names, str(path))[0]
    config = chosen.parent / "config.json"
    return _read_diffusers(chosen, config) if _of_diffusers(chosen.name) and config.is_file() else _read_file(chosen)


def mapping(
    released: Released, wanted: Mapping[str, Tensor], names: Mapping[str, str], derived: Mapping[str, Tensor]
) -> list[Row]:
    """What becomes of every tensor, whether they fit or not: see `weights.compare`."""
    return compare(released.state, wanted, names, derived)


def require_same_network(released: Released, network: Mapping[str, Any]) -> None:
    """Raise UserError where the release says another dimension than our network has.

    Another number of heads, or another patch size on another input, fits key by key and computes something else.
    """
    differing = [
        f"{key} {value} for {network[key]}"
        for key, value in released.network.items()
        if key in network and network[key] != value
    ]
    if differing:
        raise UserError(
            f"{released.name} is of another network: {', '.join(differing)}",
            "choose the backbone and size that the file was made for",
        )


def choose(names: Sequence[str], title: str) -> list[str]:
    """Of the files in a folder, the one that holds the weights, then those that it needs beside it.

    Raises UserError where there is none, or where there are several.
    """
    weights = [name for name in names if name.endswith((*SUFFIXES, INDEX))]
    shards = {shard for name in weights for shard in _shards(name, names)}
    weights = sorted(set(weights) - shards)
    of_diffusers = [
        folder + file
        for folder in ("transformer/", "")
        for file in _DIFFUSERS_FILES
        if {folder + file, f"{folder}config.json"} <= set(names)
    ]
    if of_diffusers:
        # A pipeline holds other networks beside the transformer, in folders of their own.
        top = [name for name in weights if "/" not in name and not _of_diffusers(name)]
        weights = [of_diffusers[0], *top]
    if not weights:
        raise UserError(f"{title} holds no weights", f"give a folder with a file of {', '.join(SUFFIXES)}, or the file")
    if len(weights) > 1:
        raise UserError(
            f"{title} holds {len(weights)} files of weights: {first_few(weights, SHOWN_KEYS)}",
            f"say which one: {title}/{weights[0]}",
        )
    return _with_needs(weights[0], names)


def _of_diffusers(name: str) -> bool:
    return Path(name).name.startswith("diffusion_pytorch_model")


def _with_needs(chosen: str, names: Sequence[str]) -> list[str]:
    config = f"{chosen.rpartition('/')[0]}/config.json".lstrip("/")
    needed = [config] if _of_diffusers(chosen) and config in names else []
    return [chosen, *needed, *_shards(chosen, names)]


def _shards(chosen: str, names: Iterable[str]) -> list[str]:
    if not chosen.endswith(INDEX):
        return []
    whole = chosen.removesuffix(INDEX)
    return sorted(name for name in names if name != whole and _SHARD.sub("", name) == whole)


def _fetch(repository: str, inside: str) -> Path:
    """A file of a hub repository, or its one set of weights, in the hub's own cache."""
    hub = _hub()
    # huggingface_hub lets its HTTP library's errors through, and that library changed twice: its own error's bases
    # name the present one.
    out_of_reach = (OSError, ValueError, *hub.errors.HfHubHTTPError.__bases__)
    try:
        # The one call that does not retry for half a minute.
        answer = hub.HfApi().repo_info(repository, timeout=HUB_SECONDS)
    except out_of_reach as error:
        snapshot = _cached(hub, repository)
        if snapshot is None:
            raise _not_given(repository, inside, error) from error
        names = [file.relative_to(snapshot).as_posix() for file in snapshot.rglob("*") if file.is_file()]
        return snapshot / _choose_inside(names, repository, inside)[0]
    chosen = _choose_inside([file.rfilename for file in answer.siblings or ()], repository, inside)
    try:
        places = [Path(hub.hf_hub_download(repository, name, revision=answer.sha)) for name in chosen]
    except out_of_reach as error:
        raise _not_given(repository, inside, error) from error
    return places[0]


def _not_given(repository: str, inside: str, error: Exception) -> UserError:
    wanted = f"{repository}/{inside}".strip("/")
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    return UserError(
        f"{wanted} is not a file here, and the hub did not give it: {reason}",
        f"{_BY_HAND}; for a repository that asks for consent, log in with `hf auth login` first",
    )


def _choose_inside(names: Sequence[str], repository: str, inside: str) -> list[str]:
    if inside in names:
        return _with_needs(inside, names)
    below = f"{inside}/" if inside else ""
    within = [name.removeprefix(below) for name in names if name.startswith(below)]
    if not within:
        weights = sorted(name for name in names if name.endswith((*SUFFIXES, INDEX)))
        raise UserError(
            f"{repository} on the hub has no {inside}", f"its weights: {first_few(weights, SHOWN_KEYS) or 'none'}"
        )
    return [below + name for name in choose(within, f"{repository}/{inside}".strip("/"))]


def _cached(hub: ModuleType, repository: str) -> Path | None:
    """The folder in the hub's cache that was fetched last."""
    snapshots = Path(hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
    return max(snapshots.glob("*"), key=lambda folder: folder.stat().st_mtime, default=None)


def _hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ModuleNotFoundError:
        raise UserError(
            "weights on the hub need the package huggingface_hub, which is not installed",
            f"pip install diffusers, or {_BY_HAND}",
        ) from None
    return huggingface_hub


def _read_file(path: Path) -> Released:
    state, files = _read_state(path)
    found = find_state(state, str(path))
    if any(key.startswith("transformer_blocks.") for key in found.tensors):
        raise UserError(
            f"{path} has the names of diffusers, and no config.json beside it says what network it is",
            "give the folder that both are in",
        )
    return Released(found.tensors, found.entry, _sha256(files), _name(path))


def _read_state(path: Path) -> tuple[Any, list[Path]]:
    """What a file holds, or all the shards that an index names, and the files that were read."""
    if not path.name.endswith(INDEX):
        return read_tensors(path, mapped=True), [path]
    places = _read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise UserError(f"{path} is no index of shards", "give the file or the folder of the weights")
    shards = sorted(set(places.values()))
    absent = [name for name in shards if Path(name).name != name or not (path.parent / name).is_file()]
    if absent:
        raise UserError(
            f"{path} needs {len(shards)} shards, and {len(absent)} are not beside it: {first_few(absent, SHOWN_KEYS)}",
            "fetch all of them into that folder",
        )
    content = {name: read_tensors(path.parent / name, mapped=True) for name in shards}
    lost = [key for key, place in places.items() if key not in content[place]]
    if lost:
        raise UserError(
            f"the shards of {path} lack tensors that it names: {first_few(lost, SHOWN_KEYS)}", "fetch them anew"
        )
    return {key: content[place][key] for key, place in places.items()}, [path.parent / name for name in shards]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no weights file {path}", "give the path of a .pt or .safetensors file") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}", "fetch it anew") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object", "fetch it anew")
    return content


def _sha256(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _name(path: Path) -> str:
    """A hub id where the file lies in the hub's cache, else its last name; for diffusers, its folder's."""
    place = path.parent if _of_diffusers(path.name) else path
    parts = place.absolute().parts
    if "snapshots" in parts[:-1]:
        at = parts.index("snapshots")
        if parts[at - 1].startswith("models--"):
            return "/".join([*parts[at - 1].split("--")[1:], *parts[at + 2 :]])
    return parts[-2] if parts[-1] == "transformer" else parts[-1]


def _read_diffusers(path: Path, config_file: Path) -> Released:
    """diffusers' DiTTransformer2DModel as the official DiT.

    Its weights are the official ones, split and copied.  The computation around them differs in two ways that no
    renaming can express, and the official one is kept, for which they were trained: diffusers spaces its timestep
    frequencies by 1/127 (the official code by 1/128), and its second norm's epsilon is 1e-5 (1e-6).
    """
    config = _read_json(config_file)
    _require_official(config, config_file)
    content, files = _read_state(path)
    found = find_state(content, str(path))
    state = _official_dit(found.tensors, str(path))
    side = config["sample_size"] // config["patch_size"]
    width = config["num_attention_heads"] * config["attention_head_dim"]
    state.setdefault("pos_embed", torch.from_numpy(sin_cos_2d(side, side, width))[None])
    network = {
        "input_size": config["sample_size"],
        "patch_size": config["patch_size"],
        "in_channels": config["in_channels"],
        "num_classes": config["num_embeds_ada_norm"],
        "num_heads": config["num_attention_heads"],
        "width": width,
        "depth": config["num_layers"],
    }
    entry = ", ".join(["diffusers folder", *found.entry.split(", ")[1:], "timesteps and norms as in the official code"])
    return Released(state, entry, _sha256(files), _name(path), network)


def _require_official(config: Mapping[str, Any], file: Path) -> None:
    """Raise UserError where diffusers would build a network that DiT is not."""
    kind = config.get("_class_name")
    if kind not in _DIFFUSERS_CLASSES:
        raise UserError(f"{file} describes a {kind}, not a DiT", f"give the folder of a {_DIFFUSERS_CLASSES[0]}")
    other = [
        f"{key} is {config.get(key)}, not {value}" for key, value in _DIFFUSERS_MUST.items() if config.get(key) != value
    ]
    if config.get("norm_eps", _DIFFUSERS_EPSILONS[0]) not in _DIFFUSERS_EPSILONS:
        other.append(f"norm_eps is {config['norm_eps']}, not {_DIFFUSERS_EPSILONS[1]}")
    other += [
        f"{key} is {config.get(key)}, not a count"
        for key in _DIFFUSERS_COUNTS
        if not isinstance(config.get(key), int) or config[key] < 1
    ]
    if other:
        raise UserError(f"{file} describes another network than the official DiT: {', '.join(other)}", "give another")


def _official_dit(state: Mapping[str, Tensor], title: str) -> dict[str, Tensor]:
    """diffusers' names to the official ones; a name that DiT has not is left, for the strict comparison to find."""
    official: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _official_name(key)
        if name in official and not torch.equal(official[name], value):
            raise UserError(
                f"{title}: {key} differs from its copy in another block, where the official DiT has one for all",
                "this was trained as another network: give another file",
            )
        official[name] = value
    for query in [key for key in official if ".attn.to_q." in key]:
        three = [query.replace(".to_q.", f".to_{part}.") for part in "qkv"]
        if all(key in official for key in three):
            official[query.replace(".to_q.", ".qkv.")] = torch.cat([official.pop(key) for key in three])
    return official


def _official_name(key: str) -> str:
    if key == "pos_embed.pos_embed":
        return "pos_embed"
    module, _, kind = key.rpartition(".")
    block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
    if block is None:
        return f"{_DIFFUSERS_ENDS.get(module, module)}.{kind}"
    index, part = block.groups()
    if part in _DIFFUSERS_CONDITION:
        return f"{_DIFFUSERS_CONDITION[part]}.{kind}"
    return f"blocks.{index}.{_DIFFUSERS_BLOCK.get(part, part.replace('attn1.', 'attn.'))}.{kind}"
