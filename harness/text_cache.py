"""What a frozen text encoder says of a list of texts: computed once, then mapped from disk."""

# N texts asked for, n texts of a shard, T tokens of a text, E width, R tokens present in all texts of a shard

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import UserError
from harness.files import read_array, write_array, write_text
from harness.progress import Progress, say
from harness.shared_work import make_missing
from harness.text_encoder_files import TextEncoderIdentity
from harness.text_encoders import Embedded, TextEncoder

LAYOUT = 1
SHARD = 512
# Each shard takes two of the descriptors of the process, often 1,024 in all: more texts make larger shards.
MOST_SHARDS = 128
BATCH = 64

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StoredShard:
    """Consecutive texts: the present tokens of all in a row (R, E), where each text's begin (n + 1,), pooled (n, E)."""

    tokens: Floats
    starts: Numbers
    pooled: Floats


@dataclass(frozen=True)
class StoredTexts:
    """What was encoded, by the number of a text in the list; shards, all but the last of one size, lie on disk."""

    shards: Sequence[StoredShard]
    num_tokens: int

    def __len__(self) -> int:
        return sum(len(shard.pooled) for shard in self.shards)

    @property
    def num_full(self) -> int:
        """How many texts fill all T tokens: what a longer one has beyond them was cut off."""
        return sum(int((np.diff(shard.starts) == self.num_tokens).sum()) for shard in self.shards)

    def __deepcopy__(self, memo: dict[int, Any]) -> "StoredTexts":
        """Itself: a copy of a network, as sharding makes one, must not read the disk into memory."""
        return self

    def tokens(self, numbers: Numbers) -> Floats:
        """The tokens of these texts, zeros where none are present: (N, T, E)."""
        tokens_NTE = np.zeros((len(numbers), self.num_tokens, self.shards[0].tokens.shape[1]), np.float32)
        for row, (shard, index) in zip(tokens_NTE, self._places(numbers), strict=True):
            start, stop = shard.starts[index : index + 2]
            row[: stop - start] = shard.tokens[start:stop]
        return tokens_NTE

    def present(self, numbers: Numbers) -> Flags:
        """Which tokens of these texts are present, the first ones of each: (N, T)."""
        lengths = [shard.starts[index + 1] - shard.starts[index] for shard, index in self._places(numbers)]
        present_NT: Flags = np.arange(self.num_tokens) < np.array(lengths, np.int64)[:, None]
        return present_NT

    def pooled(self, numbers: Numbers) -> Floats:
        """The pooled vectors of these texts: (N, E)."""
        return np.stack([shard.pooled[index] for shard, index in self._places(numbers)])

    def _places(self, numbers: Numbers) -> list[tuple[StoredShard, int]]:
        size = len(self.shards[0].pooled)
        return [(self.shards[number // size], number % size) for number in numbers.tolist()]


def stored_texts(
    texts: Sequence[str], identity: TextEncoderIdentity, open_encoder: Callable[[], TextEncoder], folder: Path
) -> StoredTexts:
    """What the encoder says of all texts, from `folder`; the encoder is opened only where some of it is missing.

    Each shard is put in place whole: an interrupted encoding goes on, and several processes share the work.  The same
    texts in another order are another list.

    Embeddings are kept as they are, in float32: halves would round them, and save less than is saved by keeping only
    the tokens that are present, usually ten or twenty of a hundred.

    Raises UserError where a shard is damaged, the disk is full, the encoder is not the one that was resolved, or gives
    values that are no numbers.
    """
    assert texts, "no texts"
    encoding = _Encoding(tuple(texts), identity)
    place = folder / encoding.digest
    shards = encoding.shards(place)
    if missing := [shard for shard in shards if not shard.is_there()]:
        left = sum(map(len, missing))
        say(f"encoding {left} of {len(texts)} texts with {identity.name}, once, into {place}")
        write_text(place / "about.json", json.dumps(encoding.about, indent=1) + "\n")
        encoder = _opened(open_encoder, identity)
        with Progress("encoding texts", len(texts), len(texts) - left) as progress:
            make_missing(place, missing, lambda shard: encoding.make(shard, encoder, progress), progress, "texts")
    stored = StoredTexts([shard.read() for shard in shards], identity.tokens)
    if missing and stored.num_full:
        say(f"{stored.num_full} of {len(texts)} texts fill all {identity.tokens} tokens: what is beyond was cut off")
    return stored


@dataclass(frozen=True)
class _Shard:
    """The texts start .. stop - 1, in three files, of which `lengths` is written last: with it the shard is whole."""

    index: int
    start: int
    stop: int
    width: int
    place: Path

    def __len__(self) -> int:
        return self.stop - self.start

    def file(self, what: str) -> Path:
        return self.place / f"{self.start:09d}-{what}.npy"

    def is_there(self) -> bool:
        """Whether it has been made; raises UserError where it is damaged."""
        if not self.file("lengths").exists():
            return False
        self.read()
        return True

    def read(self) -> StoredShard:
        lengths = self._read("lengths", (len(self),), np.int64)
        tokens_RE = self._read("tokens", (int(lengths.sum()), self.width), np.float32)
        pooled_nE = self._read("pooled", (len(self), self.width), np.float32)
        return StoredShard(tokens_RE, np.concatenate([[0], np.cumsum(lengths)]), pooled_nE)

    def _read(self, what: str, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        try:
            array = read_array(self.file(what), mapped=what != "lengths")
        except UserError as error:
            raise UserError(error.problem, self._remedy) from error
        except FileNotFoundError:
            raise UserError(f"{self.file(what)} is lost", self._remedy) from None
        if array.shape != shape or array.dtype != dtype:
            raise UserError(
                f"{self.file(what)} is damaged: it holds {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}",
                self._remedy,
            )
        return array

    @property
    def _remedy(self) -> str:
        return f"delete {self.file('lengths')}: the same command makes it anew, with those beside it"


@dataclass(frozen=True)
class _Encoding:
    """Which texts are encoded, and by what."""

    texts: tuple[str, ...]
    identity: TextEncoderIdentity

    @property
    def about(self) -> dict[str, Any]:
        """All that decides the numbers, and the encoder's name."""
        return {
            "layout": LAYOUT,
            "encoder": self.identity.model_dump(mode="json"),
            "texts": len(self.texts),
            "texts_sha256": hashlib.sha256(json.dumps(self.texts).encode()).hexdigest(),
        }

    @property
    def digest(self) -> str:
        decisive = {**self.about, "encoder": self.identity.digest}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

    def shards(self, place: Path) -> list[_Shard]:
        count = len(self.texts)
        size = max(SHARD, -(-count // MOST_SHARDS))
        starts = range(0, count, size)
        return [
            _Shard(index, start, min(start + size, count), self.identity.width, place)
            for index, start in enumerate(starts)
        ]

    def make(self, shard: _Shard, encoder: TextEncoder, progress: Progress) -> None:
        """Encode the texts of a shard, and put them in place.  Raises UserError where they give no numbers."""
        tokens, pooled, lengths = [], [], []
        for start in range(shard.start, shard.stop, BATCH):
            part = self.texts[start : min(start + BATCH, shard.stop)]
            embedded = encoder.encode(part)
            tokens.append(embedded.tokens_NTE[embedded.present_NT].cpu().numpy())
            pooled.append(embedded.pooled_NE.cpu().numpy())
            lengths.append(_lengths(embedded))
            progress.advance(len(part))
        write_array(shard.file("tokens"), np.concatenate(tokens))
        write_array(shard.file("pooled"), np.concatenate(pooled))
        write_array(shard.file("lengths"), np.concatenate(lengths))


def _lengths(embedded: Embedded) -> Numbers:
    present_NT = embedded.present_NT.cpu().numpy()
    lengths: Numbers = present_NT.sum(axis=1, dtype=np.int64)
    assert (present_NT == (np.arange(present_NT.shape[1]) < lengths[:, None])).all(), "padding before a token"
    return lengths


def _opened(open_encoder: Callable[[], TextEncoder], identity: TextEncoderIdentity) -> TextEncoder:
    encoder = open_encoder()
    if encoder.identity.digest != identity.digest:
        raise UserError(
            f"the text encoder {identity.name} changed while the run was being prepared",
            "run the command again when it is still",
        )
    return encoder
