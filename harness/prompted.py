"""Prompts in a denoiser: their pooled vector joins the class, their tokens join the patches or are attended to."""

# N batch, L tokens of the sequence, D its width, T tokens of a prompt, E their width, P prompts, S keys

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from harness.denoiser import Denoiser, Prompts, Said, Trunk
from harness.text_config import TextConfig

# Number 0 is the empty prompt: what classifier-free guidance asks for.
EMPTY_PROMPT = 0
HEAD_WIDTH = 32
POSITION_STD = 0.02

# The operation itself: calls of torch.nn.functional's are taken for the blocks' own attention where that is measured.
_attention = torch.ops.aten.scaled_dot_product_attention


class PromptReader(nn.Module, ABC):
    """What prompts say, by their numbers."""

    @abstractmethod
    def forward(self, y_N: Tensor) -> Said:
        """Tokens and pooled vectors of the prompts of these numbers."""

    def prepare(self) -> None:
        """Whatever takes long, before the first prompt is asked for."""


class TextPrompts(Prompts):
    """A text encoder and its way into a denoiser, which learns one class: every image.

    In cross-attention padding is not looked at.  In context it is: blocks know no masks, and its tokens are zeros, as
    those of an absent word.
    """

    def __init__(self, config: TextConfig, trunks: Sequence[Trunk], reader: PromptReader) -> None:
        super().__init__()
        self.config, self.reader = config, reader
        self.norm = nn.LayerNorm(config.width)
        self.pooled = nn.Linear(config.width, trunks[0].width)
        if config.entry == "cross-attention":
            layers = [Attending(trunk.width, config.width) for trunk in trunks for _ in range(trunk.depth)]
            self.layers = nn.ModuleList(layers)
        else:
            ways = {str(trunk.start): nn.Linear(config.width, trunk.width) for trunk in trunks}
            self.ways = nn.ModuleDict(ways)

    def prepare(self) -> None:
        self.reader.prepare()

    def read(self, y_N: Tensor) -> Said:
        said: Said = self.reader(y_N)
        return Said(self.norm(said.tokens), said.present, said.pooled)

    def label(self, embed_label: Callable[[Tensor], Tensor], y_N: Tensor, said: Said | None) -> Tensor:
        assert said is not None, "prompts that were read"
        label_ND: Tensor = embed_label(torch.zeros_like(y_N)) + self.pooled(said.pooled)
        return label_ND

    def join(self, trunk: Trunk, tokens_NLD: Tensor, said: Said | None) -> Tensor:
        if self.config.entry != "in-context":
            return tokens_NLD
        assert said is not None, "prompts that were read"
        text_NTD = self.ways[str(trunk.start)](said.tokens) * said.present[..., None]
        return torch.cat([tokens_NLD, text_NTD.to(tokens_NLD.dtype)], dim=1)

    def attend(self, index: int, tokens_NLD: Tensor, said: Said | None) -> Tensor:
        if self.config.entry != "cross-attention":
            return tokens_NLD
        assert said is not None, "prompts that were read"
        attended_NLD: Tensor = self.layers[index](tokens_NLD, said.tokens, said.present)
        return attended_NLD

    def leave(self, tokens_NLD: Tensor) -> Tensor:
        return tokens_NLD[:, : -self.present] if self.present else tokens_NLD

    @property
    def present(self) -> int:
        return self.config.tokens if self.config.entry == "in-context" else 0


class Attending(nn.Module):
    """Residual attention from tokens (N, L, D) to others (N, S, E), of which those count that are `present` (N, S).

    Starts as the identity.
    """

    def __init__(self, width: int, seen_width: int) -> None:
        super().__init__()
        self.num_heads = max(1, width // HEAD_WIDTH)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(seen_width, 2 * width)
        self.out = nn.Linear(width, width)
        for layer in (self.query, self.key_value):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens_NLD: Tensor, seen_NSE: Tensor, present_NS: Tensor) -> Tensor:
        q = self._heads(self.query(self.norm(tokens_NLD)))
        k, v = (self._heads(each) for each in self.key_value(seen_NSE).chunk(2, dim=-1))
        mixed = _attention(q, k.to(q.dtype), v.to(q.dtype), present_NS[:, None, None, :])
        attended_NLD: Tensor = tokens_NLD + self.out(mixed.transpose(1, 2).flatten(2))
        return attended_NLD

    def _heads(self, tokens_NLD: Tensor) -> Tensor:
        N, L, D = tokens_NLD.shape
        return tokens_NLD.reshape(N, L, self.num_heads, D // self.num_heads).transpose(1, 2)


class WordEncoder(PromptReader):
    """A small transformer over words, trained with the denoiser; prompts are numbered by a table of words (P, T).

    Word 0 is none.  The pooled vector is the sum over the words of a prompt, over the root of their number: like a sum
    of class embeddings, and of about unit size from the start, without which few steps teach little.
    """

    def __init__(self, config: TextConfig, words_PT: Tensor) -> None:
        super().__init__()
        self.register_buffer("words", words_PT, persistent=False)
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Parameter(torch.randn(1, config.tokens, config.width) * POSITION_STD)
        self.blocks = nn.ModuleList(_WordBlock(config.width) for _ in range(config.depth))

    def forward(self, y_N: Tensor) -> Said:
        words_NT = self.get_buffer("words")[y_N]
        present_NT = words_NT != 0
        tokens_NTE = self.embedding(words_NT) + self.position
        for block in self.blocks:
            tokens_NTE = block(tokens_NTE, present_NT)
        weight_NT1 = present_NT[..., None].to(tokens_NTE.dtype)
        pooled_NE = (tokens_NTE * weight_NT1).sum(dim=1) / weight_NT1.sum(dim=1).sqrt()
        return Said(tokens_NTE, present_NT, pooled_NE)


class _WordBlock(nn.Module):
    """Self-attention among the words that there are, then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attending(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens_NTE: Tensor, present_NT: Tensor) -> Tensor:
        tokens_NTE = self.attention(tokens_NTE, self.attention.norm(tokens_NTE), present_NT)
        out_NTE: Tensor = tokens_NTE + self.mlp(tokens_NTE)
        return out_NTE


def attach_prompts(config: TextConfig, denoiser: Denoiser, reader: PromptReader) -> None:
    """Let a denoiser's labels be numbers of prompts, which `reader` reads.  Its own weights are left as they are."""
    denoiser.prompts = TextPrompts(config, denoiser.trunks, reader)
    denoiser.null_label = EMPTY_PROMPT
