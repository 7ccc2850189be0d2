"""Find a frozen text encoder of transformers, and say what it is without loading it (no torch)."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from harness.errors import UserError, disk_error, first_few
from harness.files import read_settings, sha256_of
from harness.frozen import Frozen, PositiveInt
from harness.progress import say

FLAG = "--text-encoder"
CONFIG_FILE = "config.json"
INDEX = ".index.json"
WEIGHTS_FILES = tuple(name + end for name in ("model.safetensors", "pytorch_model.bin") for end in ("", INDEX))
# Each of these is a tokenizer, with those of the second list beside it.
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json")
SETTINGS_FILES = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
HUB_SECONDS = 10
FEWEST_TOKENS = 2
SAID_FROM_BYTES = 4 * 2**30

Family = Literal["clip", "siglip", "t5", "language-model"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class _Kind:
    """What a `model_type` of transformers means: a family, its class, and what its config.json may leave out."""

    family: Family
    network: str
    given: Mapping[str, int]
    default_tokens: int | None = None


_CLIP = _Kind("clip", "CLIPTextModel", {"hidden_size": 512, "max_position_embeddings": 77})
_SIGLIP_GIVEN = {"hidden_size": 768, "max_position_embeddings": 64}
_T5_TOKENS, _LANGUAGE_TOKENS = 120, 128
_LANGUAGE_MODELS = {
    "gemma": "GemmaModel",
    "gemma2": "Gemma2Model",
    "llama": "LlamaModel",
    "mistral": "MistralModel",
    "olmo2": "Olmo2Model",
    "phi3": "Phi3Model",
    "qwen2": "Qwen2Model",
    "qwen3": "Qwen3Model",
    "smollm3": "SmolLM3Model",
}
KINDS: Mapping[str, _Kind] = {
    "clip": _CLIP,
    "clip_text_model": _CLIP,
    **dict.fromkeys(("siglip", "siglip_text_model"), _Kind("siglip", "SiglipTextModel", _SIGLIP_GIVEN)),
    **dict.fromkeys(("siglip2", "siglip2_text_model"), _Kind("siglip", "Siglip2TextModel", _SIGLIP_GIVEN)),
    "t5": _Kind("t5", "T5EncoderModel", {"d_model": 512}, _T5_TOKENS),
    "mt5": _Kind("t5", "MT5EncoderModel", {"d_model": 512}, _T5_TOKENS),
    "umt5": _Kind("t5", "UMT5EncoderModel", {"d_model": 512}, _T5_TOKENS),
    **{name: _Kind("language-model", network, {}, _LANGUAGE_TOKENS) for name, network in _LANGUAGE_MODELS.items()},
}


class TextEncoderIdentity(Frozen):
    """What a frozen text encoder is, and how many tokens of a text it is given.

    `name` is a hub id or a folder's name, never a path, and no part of what it is.  `network` is transformers' class,
    `width` that of its tokens and of its pooled vector.  `weights_sha256` is of the file of weights (of its shards, in
    the order of their names), `settings_sha256` of config.json and the tokenizer.
    """

    name: str
    family: Family
    network: str
    tokens: PositiveInt
    width: PositiveInt
    weights_sha256: str
    settings_sha256: str

    @property
    def digest(self) -> str:
        """Of all that decides its embeddings, 64 hexadecimal digits."""
        return hashlib.sha256(self.model_dump_json(exclude={"name"}).encode()).hexdigest()


@dataclass(frozen=True)
class FoundTextEncoder:
    """A text encoder whose files are here: `weights` is the file to read, an index where there are shards."""

    folder: Path
    weights: Path
    identity: TextEncoderIdentity


def identify_text_encoder(place: str, tokens: int | None = None) -> TextEncoderIdentity:
    """What `find_text_encoder` finds is."""
    return find_text_encoder(place, tokens).identity


def find_text_encoder(place: str, tokens: int | None = None) -> FoundTextEncoder:
    """The text encoder in a local folder or of a hub id: in the hub's cache, else fetched into it.

    `tokens` are given to it of every text, which is cut or padded to them; None for as many as its family is known
    with: 77 for CLIP, 64 for SigLIP, 120 for T5 (PixArt-alpha), 128 for language models.  The weights are read once,
    for their digest.  Raises UserError where files are missing or damaged, the network is of a kind that is not
    understood, or it cannot be given so many tokens.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        name = folder.resolve().name
    elif folder.exists():
        raise UserError(f"{place} is a file, not the folder of a text encoder", _by_hand("the encoder"))
    else:
        folder, name = _fetched(place), place
    config = read_settings(folder / CONFIG_FILE, _by_hand(name))
    kind, settings = _understood(config, folder)
    weights = _weights_in(folder, name)
    _require_tokenizer([file.name for file in folder.iterdir()], folder, name)
    identity = TextEncoderIdentity(
        name=name,
        family=kind.family,
        network=kind.network,
        tokens=_tokens(kind, settings, tokens, name),
        width=_width(kind, settings, name),
        weights_sha256=_digest(_parts(weights, name)),
        settings_sha256=_settings_digest(folder),
    )
    return FoundTextEncoder(folder, weights, identity)


def _understood(config: Mapping[str, Any], folder: Path) -> tuple[_Kind, Mapping[str, Any]]:
    """The kind of network, and the settings of its text half; UserError for a kind that nobody here understands."""
    kind = KINDS.get(str(config.get("model_type")))
    if kind is None:
        raise UserError(
            f"{folder / CONFIG_FILE} describes {config.get('model_type') or 'no model'}: no text encoder that is "
            "understood",
            f"give a model of one of the types {', '.join(KINDS)}",
        )
    nested = [config.get(key) for key in ("text_config", "text_config_dict")]
    halves: list[Mapping[str, Any]] = [half for half in nested if isinstance(half, dict)]
    return kind, {**kind.given, **{key: value for half in halves or [config] for key, value in half.items()}}


def _width(kind: _Kind, settings: Mapping[str, Any], name: str) -> int:
    width = _count(settings, "d_model" if kind.family == "t5" else "hidden_size", name)
    pooled = settings.get("projection_size") or width
    if kind.family == "siglip" and pooled != width:
        raise UserError(
            f"the pooled vector of {name} is {pooled} wide, its tokens {width}: a denoiser takes one width",
            "give a SigLIP of another size",
        )
    return width


def _tokens(kind: _Kind, settings: Mapping[str, Any], wanted: int | None, name: str) -> int:
    """How many tokens it is given; UserError where it has not so many positions, or was trained with exactly others."""
    most = None if kind.family == "t5" else _count(settings, "max_position_embeddings", name)
    usual = min(count for count in (kind.default_tokens, most) if count is not None)
    tokens = usual if wanted is None else wanted
    if kind.family == "siglip" and tokens != usual:
        # Padding is looked at, and the pooled vector is that of the last position.
        raise UserError(f"{name} was trained with exactly {usual} tokens, not {tokens}", f"set text.tokens={usual}")
    if tokens < FEWEST_TOKENS or (most is not None and tokens > most):
        upper = "" if most is None else f" to {most}"
        raise UserError(
            f"{name} cannot be given {tokens} tokens of a text: it takes {FEWEST_TOKENS}{upper}",
            f"set text.tokens={usual}",
        )
    return tokens


def _count(settings: Mapping[str, Any], key: str, name: str) -> int:
    count = settings.get(key)
    if not isinstance(count, int) or count < 1:
        raise UserError(f"{CONFIG_FILE} of {name} has {count} as its {key}, where a count is wanted", "fetch it anew")
    return count


def _weights_in(folder: Path, name: str) -> Path:
    chosen = _first(WEIGHTS_FILES, [file.name for file in folder.iterdir()])
    if chosen is None:
        raise UserError(f"the folder {folder} holds none of {', '.join(WEIGHTS_FILES)}", _by_hand(name))
    return folder / chosen


def _require_tokenizer(names: Sequence[str], title: object, name: str) -> None:
    if _first(TOKENIZER_FILES, names) is None:
        raise UserError(f"{title} holds no tokenizer: none of {', '.join(TOKENIZER_FILES)}", _by_hand(name))


def _parts(weights: Path, name: str) -> list[Path]:
    """The files that hold the weights: the one, or all that an index names.  Raises UserError for one that is lost."""
    if not weights.name.endswith(INDEX):
        return [weights]
    places = read_settings(weights, _by_hand(name)).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{weights} is no index of shards", "fetch it anew")
    shards = sorted({str(place) for place in places.values()})
    lost = [shard for shard in shards if Path(shard).name != shard or not (weights.parent / shard).is_file()]
    if lost:
        raise UserError(f"shards that {weights} names are not beside it: {first_few(lost, 5)}", _by_hand(name))
    return [weights.parent / shard for shard in shards]


def _digest(files: Sequence[Path]) -> str:
    states = [file.stat() for file in files]
    if (size := sum(state.st_size for state in states)) >= SAID_FROM_BYTES:
        say(f"reading {size / 1e9:,.0f} GB of {files[0].parent.name} for their SHA-256")
    return _digest_of_still(
        *((file, state.st_size, state.st_mtime_ns) for file, state in zip(files, states, strict=True))
    )


# A run is resolved and then performed by the same process, mostly.
@lru_cache(maxsize=8)
def _digest_of_still(*stated: tuple[Path, int, int]) -> str:
    """The digest of files that have this size and age: as `harness.released` takes it."""
    if len(stated) == 1:
        return sha256_of(stated[0][0])
    total = hashlib.sha256()
    for path, _, _ in stated:
        try:
            with path.open("rb") as file:
                while block := file.read(2**20):
                    total.update(block)
        except OSError as error:
            raise disk_error(path, error) from error
    return total.hexdigest()


def _settings_digest(folder: Path) -> str:
    total = hashlib.sha256()
    for name in (CONFIG_FILE, *TOKENIZER_FILES, *SETTINGS_FILES):
        if (folder / name).is_file():
            total.update(f"{name} {sha256_of(folder / name)}\n".encode())
    return total.hexdigest()


def _fetched(repository: str) -> Path:
    """The folder of a text encoder of the hub: in the hub's cache, or fetched into it."""
    if not _HUB_ID.fullmatch(repository):
        raise UserError(f"there is no folder {repository}, and it is no hub id", f"give {FLAG} owner/name or a folder")
    hub = _hub()
    if cached := _cached(hub, repository):
        return cached
    say(f"fetching the text encoder {repository} from the hub")
    # huggingface_hub lets its HTTP library's errors through, and that library changed twice: its own error's bases
    # name the present one.
    out_of_reach = (OSError, ValueError, *hub.errors.HfHubHTTPError.__bases__)
    try:
        # The one call that does not retry for half a minute.
        answer = hub.HfApi().repo_info(repository, timeout=HUB_SECONDS)
        names = [file.rfilename for file in answer.siblings or ()]
        weights = _first(WEIGHTS_FILES, names)
        if weights is None or CONFIG_FILE not in names:
            raise UserError(f"{repository} on the hub is no model of transformers", f"give {FLAG} another")
        _require_tokenizer(names, f"{repository} on the hub", repository)
        settings = [name for name in (*TOKENIZER_FILES, *SETTINGS_FILES) if name in names]
        for name in (CONFIG_FILE, *settings, weights):
            path = Path(hub.hf_hub_download(repository, name, revision=answer.sha))
        for shard in set(_shards_of(path)) & set(names):
            hub.hf_hub_download(repository, shard, revision=answer.sha)
    except out_of_reach as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise UserError(
            f"there is no folder {repository}, and the hub gave no text encoder of that name: {reason}",
            _by_hand(repository),
        ) from error
    return path.parent


def _shards_of(weights: Path) -> list[str]:
    if not weights.name.endswith(INDEX):
        return []
    places = read_settings(weights, _by_hand(weights.parent.name)).get("weight_map") or {}
    return sorted({str(place) for place in places.values()})


def _cached(hub: ModuleType, repository: str) -> Path | None:
    """The folder in the hub's cache that was fetched last and is whole."""
    snapshots = Path(hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
    whole = [folder for folder in snapshots.glob("*") if _is_whole(folder)]
    return max(whole, key=lambda folder: folder.stat().st_mtime, default=None)


def _is_whole(folder: Path) -> bool:
    names = [file.name for file in folder.iterdir() if file.is_file()]
    weights = _first(WEIGHTS_FILES, names)
    if weights is None or CONFIG_FILE not in names or _first(TOKENIZER_FILES, names) is None:
        return False
    return all((folder / shard).is_file() for shard in _shards_of(folder / weights))


def _hub() -> ModuleType:
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors

    return huggingface_hub


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def _by_hand(name: str) -> str:
    return (
        f"put {CONFIG_FILE}, {WEIGHTS_FILES[0]} (or {WEIGHTS_FILES[2]}) and the tokenizer ({TOKENIZER_FILES[0]} or "
        f"{TOKENIZER_FILES[1]}) of {name} into a folder by hand and say {FLAG} PATH"
    )
