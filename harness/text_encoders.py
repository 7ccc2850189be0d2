"""Frozen text encoders of transformers: texts become tokens and one pooled vector each."""

# N texts, T tokens of each, E width

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from harness.codec import exactly
from harness.errors import UserError, first_few
from harness.files import read_settings
from harness.released import read_released
from harness.text_encoder_files import (
    TOKENIZER_FILES,
    Family,
    FoundTextEncoder,
    TextEncoderIdentity,
    find_text_encoder,
)
from harness.weights import SHOWN_KEYS

# On some processors products of small matrices round differently by their place in a batch: each text goes alone.
TILE = 1

# What a file may hold beside the text encoder: the other half of the model, and tables that follow from others.
_BESIDE: Mapping[Family, re.Pattern[str]] = {
    "clip": re.compile(r"vision_model\.|visual_projection\.|text_projection\.|logit_scale$|.*position_ids$"),
    "siglip": re.compile(r"vision_model\.|logit_scale$|logit_bias$|.*position_ids$"),
    "t5": re.compile(r"decoder\.|lm_head\."),
    "language-model": re.compile(r"lm_head\.|.*rotary_emb\.inv_freq$"),
}
_UNFIT = (OSError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, ImportError)


@dataclass(frozen=True)
class Embedded:
    """What an encoder says of N texts, in float32: their tokens, first those that are present, and pooled vectors.

    Tokens that are not present are zeros.
    """

    tokens_NTE: Tensor
    present_NT: Tensor
    pooled_NE: Tensor


def open_text_encoder(place: str, tokens: int | None, device: torch.device) -> "TextEncoder":
    """The text encoder in a local folder or of a hub id, on the device, with as many `tokens` as wanted (None: usual).

    Weights are read without running code, in float32.  Raises UserError for what `find_text_encoder` does, and where
    weights or tokenizer are damaged, or not those of the network that config.json describes.
    """
    found = find_text_encoder(place, tokens)
    transformers = _transformers()
    with _quietly(transformers):
        tokenizer = _tokenizer(transformers, found)
        network = _network(transformers, found)
    return TextEncoder(found.identity, tokenizer, network.to(device))


class TextEncoder:
    """A frozen text encoder, as it was published to be used.

    All texts end in padding, whatever side the tokenizer prefers.  SigLIP looks at it, T5 is told to look past it, and
    CLIP and language models, in which a token sees those before it, never see it.  Pooled is CLIP's and SigLIP's own
    vector, of the end of the text and of the last position; the mean over the tokens present for T5 and language
    models.  SigLIP is given lower case, which both its generations were trained on.  Where a tokenizer makes nothing of
    an empty text, one token stands for it: the beginning of a text, or, where there is none such, its end.
    """

    def __init__(self, identity: TextEncoderIdentity, tokenizer: Any, network: Any) -> None:
        self.identity = identity
        self._tokenizer = tokenizer
        self._network = network
        self._tokenizer.truncation_side = "right"
        usual = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0]
        self._blank = next(number for number in usual if number is not None)
        self._padding = self._blank if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @property
    def width(self) -> int:
        """E."""
        return self.identity.width

    @property
    def tokens(self) -> int:
        """T."""
        return self.identity.tokens

    def encode(self, texts: Sequence[str]) -> Embedded:
        """What the encoder says of texts, on its device.  On a CPU it does not depend on which stand beside each other.

        Raises UserError where that is no numbers, or the tokenizer is of another network.
        """
        assert texts, "no texts"
        words_N2T = self._words(texts).to(self._network.device)
        vectors = exactly(self._run, words_N2T, TILE)
        if not vectors.isfinite().all():
            raise UserError(
                f"the text encoder {self.identity.name} makes values that are no numbers",
                "choose another: these weights are damaged",
            )
        return Embedded(vectors[:, :-1], words_N2T[:, 1].bool(), vectors[:, -1])

    def _words(self, texts: Sequence[str]) -> Tensor:
        """The number of each token, and 1 where there is one; in float32, which holds every number that there is."""
        if self.identity.family == "siglip":
            texts = [text.lower() for text in texts]
        rows = self._tokenizer(list(texts), truncation=True, max_length=self.tokens)["input_ids"]
        rows = [row or [self._blank] for row in rows]
        numbers = [[*row, *[self._padding] * (self.tokens - len(row))] for row in rows]
        present = [[1] * len(row) + [0] * (self.tokens - len(row)) for row in rows]
        words_N2T = torch.tensor([numbers, present], dtype=torch.float32).transpose(0, 1)
        largest, known = int(words_N2T.max()), self._network.get_input_embeddings().num_embeddings
        if largest >= known:
            raise UserError(
                f"the tokenizer of {self.identity.name} speaks of token {largest}, and the network knows {known}",
                "put the tokenizer beside it that it was trained with",
            )
        return words_N2T

    def _run(self, words_N2T: Tensor) -> Tensor:
        """The tokens of each text, then its pooled vector: (N, T + 1, E)."""
        numbers_NT, present_NT = words_N2T.long().unbind(1)
        mask = {"attention_mask": present_NT} if self.identity.family == "t5" else {}
        output = self._network(input_ids=numbers_NT, **mask)
        tokens_NTE = output.last_hidden_state.masked_fill(~present_NT.bool()[..., None], 0.0)
        if self.identity.family in ("clip", "siglip"):
            pooled_NE = output.pooler_output
        else:
            pooled_NE = tokens_NTE.sum(1) / present_NT.sum(1, keepdim=True)
        return torch.cat([tokens_NTE, pooled_NE[:, None]], dim=1)


def _transformers() -> ModuleType:
    """transformers, whose types say nothing; imported when it is needed, for it takes seconds and may be absent."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            f"text encoders are read with transformers, which cannot be imported: {error}",
            "pip install transformers sentencepiece",
        ) from error


@contextmanager
def _quietly(transformers: ModuleType) -> Iterator[None]:
    """Without a table of the weights of the other half, and without bars for what takes a moment."""
    logging = transformers.utils.logging
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def _tokenizer(transformers: ModuleType, found: FoundTextEncoder) -> Any:
    if (whole := found.folder / TOKENIZER_FILES[0]).is_file():
        read_settings(whole, "fetch it anew")
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(found.folder), local_files_only=True, trust_remote_code=False
        )
    except _UNFIT as error:
        raise UserError(
            f"the tokenizer in {found.folder} cannot be read: {_first_line(error)}",
            "fetch it anew; one of a spiece.model alone needs `pip install sentencepiece protobuf`",
        ) from error


def _network(transformers: ModuleType, found: FoundTextEncoder) -> Any:
    """The network with its weights, loaded strictly; it uses up no random numbers."""
    identity, released = found.identity, read_released(found.weights)
    if released.sha256 != identity.weights_sha256:
        raise UserError(f"{found.weights} changed while it was read", "run the command again when it is still")
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(found.folder), local_files_only=True, trust_remote_code=False
        )
        config = config.get_text_config() if identity.family in ("clip", "siglip") else config
        config.use_cache = False
        network, told = getattr(transformers, identity.network).from_pretrained(
            None,
            config=config,
            state_dict=dict(released.state),
            dtype=torch.float32,
            # Gemma 2 caps what its attention compares, which only the plain arithmetic does.
            attn_implementation="eager",
            output_loading_info=True,
        )
    except _UNFIT as error:
        raise UserError(
            f"the files in {found.folder} make no {identity.network}: {_first_line(error)}", "fetch them anew"
        ) from error
    missing, beside = sorted(told["missing_keys"]), _BESIDE[identity.family]
    unexpected = sorted(key for key in told["unexpected_keys"] if not beside.match(key))
    if missing or unexpected:
        lists = {"missing": missing, "unexpected": unexpected}
        words = [f"{len(keys)} {what}: {first_few(keys, SHOWN_KEYS)}" for what, keys in lists.items() if keys]
        raise UserError(
            f"{found.weights} does not hold the {identity.network} that config.json describes: {'; '.join(words)}",
            "fetch both files anew",
        )
    assert network.get_input_embeddings().embedding_dim == identity.width, "a width that config.json does not say"
    return network.eval().requires_grad_(requires_grad=False)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
