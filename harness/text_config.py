"""How what is asked for in words reaches a denoiser: frozen data, without torch."""

from typing import Final, Literal

from harness.frozen import Frozen, NonNegativeInt, PositiveInt

# The encoder that is trained with the denoiser.
WORDS: Final = "words"


class TextConfig(Frozen):
    """How prompts reach a denoiser: `tokens` tokens of a text encoder, `width` wide, and one pooled vector.

    The pooled vector is added to the class embedding, and so reaches adaLN.  The tokens are looked at by
    "cross-attention" before every block (PixArt, arXiv 2310.00426), or stand "in-context" behind the patches (SD3,
    arXiv 2403.03206).  The encoder "words", a transformer of `depth` blocks over `vocabulary` words, is trained with
    the denoiser; any other is a frozen one of transformers, by its hub id or its folder's name, and by the SHA-256 of
    all that decides what it says: weights, tokenizer, settings.
    """

    encoder: str = WORDS
    encoder_sha256: str = ""
    width: PositiveInt
    tokens: PositiveInt
    entry: Literal["cross-attention", "in-context"] = "cross-attention"
    vocabulary: NonNegativeInt = 0
    depth: NonNegativeInt = 0
