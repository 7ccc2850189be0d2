"""Find register neurons: those that are most active where an encoder's tokens have outlier norms, in one pass."""

# N images of a batch, L tokens, D width, F neurons of a layer, B layers

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dsr.neurons import Round, Search
from harness.encoder import Encoder


@dataclass
class Scores:
    """What a pass over images has found so far; its size does not depend on how many they are.

    `totals`, (B, F), sums the scores of the `images_with_outliers`.
    """

    totals: Tensor
    images: int = 0
    images_with_outliers: int = 0
    outlier_tokens: int = 0
    tokens: int = 0

    @property
    def mean(self) -> Tensor:
        """The mean score of every neuron over the images that have outliers; zeros where none has."""
        return self.totals / max(self.images_with_outliers, 1)


@dataclass
class Pass:
    """One forward pass as a search sees it: the layer of detection's output, (N, L, D), all activations, (N, L, F)."""

    outputs: Tensor = field(default_factory=lambda: torch.empty(0))
    activations: dict[int, Tensor] = field(default_factory=dict)


def score(encoder: Encoder, batches: Iterable[Tensor], search: Search) -> Scores:
    """Score every neuron on batches of normalised pixels, (N, C, S, S): one pass, one batch in memory at a time.

    Whatever registers the encoder has take part.  An image without outliers does not count.
    """
    scores = Scores(torch.zeros(encoder.depth, encoder.definition.hidden, dtype=torch.float64))
    for pixels_NCHW in batches:
        seen = watched_pass(encoder, pixels_NCHW, search.layer % encoder.depth)
        outliers_NL = norms(encoder, seen.outputs, search) > search.threshold
        _add(scores, encoder, seen, outliers_NL, search)
    return scores


@torch.no_grad()
def watched_pass(encoder: Encoder, pixels_NCHW: Tensor, layer: int) -> Pass:
    """A forward pass that keeps the output of a layer and all activations, as registers have left them."""
    seen = Pass()

    def keep_activation(index: int, module: Any, inputs: tuple[Tensor]) -> None:
        del module
        seen.activations[index] = inputs[0]

    def keep_output(index: int, tokens_NLD: Tensor) -> None:
        if index == layer:
            seen.outputs = tokens_NLD

    with ExitStack() as hooks:
        for index in range(encoder.depth):
            hook = encoder.activation_point(index).register_forward_pre_hook(partial(keep_activation, index))
            hooks.callback(hook.remove)
        encoder(pixels_NCHW, keep_output)
    return seen


def norms(encoder: Encoder, outputs_NLD: Tensor, search: Search) -> Tensor:
    """The norm of every row that a search looks at, (N, L)."""
    found: Tensor = _rows(encoder, outputs_NLD, search).float().norm(dim=-1)
    return found


def ranked(scores: Scores, search: Search, known: Sequence[tuple[int, int]] = ()) -> tuple[tuple[int, int, float], ...]:
    """(layer, neuron, score) of the best neurons, best first, ties by their place; those already `known` left out."""
    mean_BF = scores.mean
    depth, neurons = mean_BF.shape
    highest = depth - 1 if search.highest_layer < 0 else search.highest_layer
    passed_by = set(known)
    best: list[tuple[int, int, float]] = []
    for place in torch.sort(mean_BF.flatten(), descending=True, stable=True).indices.tolist():
        layer, neuron = divmod(place, neurons)
        if search.lowest_layer <= layer <= highest and (layer, neuron) not in passed_by:
            best.append((layer, neuron, float(mean_BF[layer, neuron])))
        if len(best) == search.top_k:
            break
    return tuple(best)


def by_layer(best: Iterable[tuple[int, int, float]]) -> dict[int, tuple[int, ...]]:
    """The neurons of each layer in the order of their rank."""
    layers: dict[int, tuple[int, ...]] = {}
    for layer, neuron, _ in best:
        layers[layer] = (*layers.get(layer, ()), neuron)
    return layers


def round_of(scores: Scores, search: Search, best: tuple[tuple[int, int, float], ...]) -> Round:
    """A pass as a list of neurons keeps it."""
    return Round(
        search=search,
        images=scores.images,
        images_with_outliers=scores.images_with_outliers,
        outlier_tokens=scores.outlier_tokens,
        tokens=scores.tokens,
        ranked=best,
    )


def _add(scores: Scores, encoder: Encoder, seen: Pass, outliers_NL: Tensor, search: Search) -> None:
    counts_N = outliers_NL.sum(dim=1)
    used_N = counts_N > 0
    scores.images += len(outliers_NL)
    scores.images_with_outliers += int(used_N.sum())
    scores.outlier_tokens += int(counts_N.sum())
    scores.tokens += outliers_NL.numel()
    weights_NL = outliers_NL[used_N] / counts_N[used_N, None]
    if search.score == "contribution":
        others_NL = ~outliers_NL[used_N]
        weights_NL = weights_NL - others_NL / others_NL.sum(dim=1, keepdim=True).clamp(min=1)
    for layer, activation_NLF in seen.activations.items():
        rows_NLF = _rows(encoder, activation_NLF, search)[used_N].float()
        score_NF = torch.einsum("nl,nlf->nf", weights_NL, rows_NLF.abs())
        if search.score == "contribution":
            score_NF = score_NF * encoder.written_norms(layer)
        if search.sparsity is not None:
            quiet_NF = (rows_NLF < search.sparsity_activation).sum(dim=1)
            score_NF = score_NF * (quiet_NF >= search.sparsity * rows_NLF.shape[1])
        scores.totals[layer] += score_NF.double().sum(dim=0).cpu()


def _rows(encoder: Encoder, tokens_NLX: Tensor, search: Search) -> Tensor:
    """The patches; as published all tokens, after their mean in an encoder without class token."""
    if search.rows == "patches":
        return encoder.patches(tokens_NLX)
    if encoder.num_prefix_tokens:
        return tokens_NLX
    return torch.cat([tokens_NLX.mean(dim=1, keepdim=True), tokens_NLX], dim=1)
