"""Find an encoder's register neurons in images, and measure what moving them into registers does."""

# N batch, L patches, D width, C channels, S side of the encoder's input

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

import dsr
from dsr.neurons import NeuronList, Round, Search, merged, write
from dsr.search import by_layer, ranked, round_of, score
from harness.encoder import Encoder
from harness.encoder_folder import encoder_named
from harness.encoder_records import OUTLIER, EncoderOutliers, PatchChange, Verdict, pooled
from harness.encoder_weights import load_here
from harness.encoders import EncoderDefinition
from harness.errors import UserError
from harness.frozen import Frozen, NonNegativeFloat, NonNegativeInt
from harness.image_stream import ImageStream, at_once, open_stream
from harness.metrics.encoder_outliers import probe
from harness.metrics.patch_change import above_norm, change_of_patches, outlier_mask, zeroing_control
from harness.metrics.token_norms import relative_norms
from harness.progress import Progress, say

LOOKED_AT, TRIED_ON = 64, 16
# No norm above twice the median is what registers are asked for; few neurons, so that patches stay as they are.
TARGET = 2.0
LADDER = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 75, 100)


@dataclass(frozen=True)
class Wanted:
    """What a user asks to be found; None is for us to propose.

    `as_published` scores activations, lets class token, registers and the mean of all tokens be outliers, spares the
    first patch as a class token, and lets a later round find neurons again.
    """

    encoder: str
    data: str
    weights: str | None = None
    images: int = 500
    rounds: int = 1
    threshold: float | None = None
    layer: int | None = None
    score: Literal["contribution", "activation"] = "contribution"
    sparsity: float | None = 0.5
    lowest_layer: int = 0
    highest_layer: int = -1
    top_k: int | None = None
    as_published: bool = False


class Effect(Frozen):
    """What test-time registers do at the layer of detection, on `images` of the data.

    The largest patch norm over the median, mean over images, `before` and `after` (and of the worst image); how far
    the patches that are no outliers moved, in images that have outliers: with the rule of one value for all neurons of
    a layer, with that of one for each, and where the outliers are merely set to zero.
    """

    images: NonNegativeInt
    layer: NonNegativeInt
    before: NonNegativeFloat
    after: NonNegativeFloat
    worst_before: NonNegativeFloat
    worst_after: NonNegativeFloat
    others: PatchChange | None
    others_per_neuron: PatchChange | None
    others_zeroing: PatchChange | None


class Finding(Frozen):
    """The end of a search: a list and its effect, or nothing found.

    The verdict is the probe's on `judged_on` of the images, by norms above three medians; a threshold of the user's
    may find tokens all the same.
    """

    encoder: str
    verdict: Verdict
    images: NonNegativeInt
    judged_on: NonNegativeInt
    neurons: NeuronList | None = None
    effect: Effect | None = None


def find_neurons(wanted: Wanted, device: torch.device) -> Finding:
    """Search an encoder for register neurons, in as many rounds as wanted; a round without outliers is the last.

    Raises UserError where the encoder or the images cannot be had, or a layer is wanted that there is not.
    """
    definition = encoder_named(wanted.encoder)
    _check(wanted, definition)
    loaded = load_here(wanted.encoder, definition, wanted.weights, device)
    encoder, stream = loaded.encoder, open_stream(wanted.data, definition, wanted.images)
    seen = _look(encoder, stream)
    found = NeuronList(
        name=f"{Path(definition.name).name}-found",
        encoder=definition.name,
        encoder_sha256=loaded.sha256,
        source=f"python -m harness neurons find (settings: found); by norms above {OUTLIER:g} medians: {seen.verdict}",
        data=stream.fingerprint,
        first_patch="kept" if wanted.as_published else "treated",
        neurons={},
    )
    for number in range(1, wanted.rounds + 1):
        _attach(found, encoder)
        search = _proposed(wanted, seen if number == 1 else _look(encoder, stream), number)
        one = None if search is None else _one_round(wanted, search, encoder, stream, found)
        if one is None:
            break
        best = by_layer(one.ranked)
        found = found.model_copy(
            update={"neurons": merged(found.neurons, best), "found": (*found.found, one), "rounds": number}
        )
    if not found.found:
        return Finding(encoder=definition.name, verdict=seen.verdict, images=len(stream), judged_on=seen.images)
    effect = _effect(found, encoder, stream, found.found[0].search)
    return Finding(
        encoder=definition.name,
        verdict=seen.verdict,
        images=len(stream),
        judged_on=seen.images,
        neurons=found,
        effect=effect,
    )


def keep(finding: Finding, path: Path) -> None:
    """Write what was found as a list; with nothing found, nothing."""
    if finding.neurons is not None:
        write(path, finding.neurons.model_copy(update={"name": path.stem}))
    elif path.exists():
        say(f"nothing was found, and {path} is left as an earlier search wrote it")


def _check(wanted: Wanted, encoder: EncoderDefinition) -> None:
    if wanted.sparsity is not None and not 0 <= wanted.sparsity <= 1:
        raise UserError(f"a sparsity is a share from 0 to 1, not {wanted.sparsity}", "write --sparsity 0.5")
    if wanted.threshold is not None and not 0 < wanted.threshold < float("inf"):
        raise UserError(f"a threshold is a norm above 0, not {wanted.threshold}", "write --threshold 30")
    layers = f"{encoder.name} has the layers 0 to {encoder.depth - 1}"
    if wanted.layer is not None and not -encoder.depth <= wanted.layer < encoder.depth:
        raise UserError(f"outliers cannot be detected at layer {wanted.layer}: {layers}", "--layer -1 is the last")
    highest = encoder.depth - 1 if wanted.highest_layer < 0 else wanted.highest_layer
    if not wanted.lowest_layer <= highest < encoder.depth:
        raise UserError(
            f"no layer is at least {wanted.lowest_layer} and at most {wanted.highest_layer}: {layers}",
            "choose --lowest-layer and --highest-layer among them",
        )


def _attach(found: NeuronList, encoder: Encoder) -> None:
    """The encoder with the neurons that are known, or as it was born where none is."""
    dsr.attach_to_encoder(found.registers() if found.neurons else None, encoder)


def _look(encoder: Encoder, stream: ImageStream) -> EncoderOutliers:
    return probe(encoder, stream.batches(encoder, at_once(encoder.definition), LOOKED_AT))


def _proposed(wanted: Wanted, seen: EncoderOutliers, number: int) -> Search | None:
    """The settings of a round; None where no threshold is given and the norms show no outliers."""
    if any(seen.not_finite):
        raise UserError(f"some norms of {seen.encoder} are no numbers", "choose other weights: these are damaged")
    layer, threshold = wanted.layer, wanted.threshold
    if threshold is None and not seen.outlier_layers:
        say(f"round {number}: {seen.verdict}, by {seen.images} images: too few norms above {OUTLIER:g} medians")
        return None
    layer = _layer_of(seen) if layer is None else layer
    if threshold is None:
        threshold = OUTLIER * seen.layers[layer % len(seen.layers)].median_norm
    say(f"round {number}: outliers are tokens above {threshold:.4g} after layer {layer}")
    return Search(
        threshold=threshold,
        layer=layer,
        score="activation" if wanted.as_published else wanted.score,
        sparsity=wanted.sparsity,
        lowest_layer=wanted.lowest_layer,
        highest_layer=wanted.highest_layer,
        top_k=wanted.top_k or LADDER[-1],
        rows="all" if wanted.as_published else "patches",
    )


def _layer_of(seen: EncoderOutliers) -> int:
    """The last layer that has at least half as many outliers as the layer with most; the last of all if none has."""
    most = max(layer.share_above_3x for layer in seen.layers)
    return max(layer.layer for layer in seen.layers if layer.share_above_3x >= most / 2)


def _one_round(
    wanted: Wanted, search: Search, encoder: Encoder, stream: ImageStream, found: NeuronList
) -> Round | None:
    """One pass over the images; None where none of them has an outlier."""
    with Progress("searching", len(stream)) as progress:
        scores = score(encoder, _told(stream.batches(encoder, at_once(encoder.definition)), progress), search)
    if not scores.images_with_outliers:
        say(f"no token of {scores.images} images is above {search.threshold:g}")
        return None
    known = [] if wanted.as_published else [(layer, one) for layer, ones in found.neurons.items() for one in ones]
    best = ranked(scores, search, known)
    if wanted.top_k is None:
        best = _fewest(best, search, encoder, stream, found)
    return round_of(scores, search.model_copy(update={"top_k": len(best)}), best)


def _told(batches: Iterator[Tensor], progress: Progress) -> Iterator[Tensor]:
    for pixels_NCSS in batches:
        yield pixels_NCSS
        progress.advance(len(pixels_NCSS))


def _fewest(
    best: tuple[tuple[int, int, float], ...],
    search: Search,
    encoder: Encoder,
    stream: ImageStream,
    found: NeuronList,
) -> tuple[tuple[int, int, float], ...]:
    """As few of the best as leave no norm above twice the median, in some images; else those that do best."""
    tried: list[tuple[float, int]] = []
    for count in [count for count in LADDER if count < len(best)] + [len(best)]:
        chosen = found.model_copy(update={"neurons": merged(found.neurons, by_layer(best[:count]))})
        _attach(chosen, encoder)
        largest = _largest(encoder, stream, search, TRIED_ON)
        tried.append((float(largest.mean()), count))
        if largest.max() < TARGET:
            break
    _attach(found, encoder)
    mean, count = tried[-1] if largest.max() < TARGET else min(tried)
    say(f"{count} neurons bring the largest norm to {mean:.2f} medians, in the mean over {len(largest)} images")
    return best[:count]


def _largest(encoder: Encoder, stream: ImageStream, search: Search, most: int) -> Tensor:
    """The largest patch norm over the median at the layer of detection, (N,)."""
    relative: list[Tensor] = []

    def watch(layer: int, tokens_NLD: Tensor) -> None:
        if layer == search.layer % encoder.depth:
            relative.append(relative_norms(encoder.patches(tokens_NLD))[0].amax(dim=1))

    with torch.no_grad():
        for pixels_NCSS in stream.batches(encoder, at_once(encoder.definition), most):
            encoder(pixels_NCSS, watch)
    return torch.cat(relative).double().cpu()


@torch.no_grad()
def _effect(found: NeuronList, encoder: Encoder, stream: ImageStream, search: Search) -> Effect:
    dsr.attach_to_encoder(None, encoder)
    before = _largest(encoder, stream, search, LOOKED_AT)
    rules = [found.registers(), found.registers().model_copy(update={"value": "neuron"})]
    moved: list[list[PatchChange | None]] = [[] for _ in rules]
    zeroed: list[PatchChange | None] = []
    layer, is_outlier = search.layer % encoder.depth, above_norm(search.threshold)
    for pixels_NCSS in stream.batches(encoder, at_once(encoder.definition), LOOKED_AT):
        dsr.attach_to_encoder(None, encoder)
        mask_NL = outlier_mask(encoder, pixels_NCSS, layer, is_outlier)
        has_N = mask_NL.any(dim=1)
        if not has_N.any():
            continue
        zeroed.append(zeroing_control(encoder, pixels_NCSS, layer, is_outlier))
        plain_NLD = encoder(pixels_NCSS[has_N]).normed
        for rule, changes in zip(rules, moved, strict=True):
            dsr.attach_to_encoder(rule, encoder)
            changes.append(change_of_patches(plain_NLD, encoder(pixels_NCSS[has_N]).normed, mask_NL[has_N]))
    _attach(found, encoder)
    after = _largest(encoder, stream, search, LOOKED_AT)
    return Effect(
        images=len(after),
        layer=layer,
        before=float(before.mean()),
        after=float(after.mean()),
        worst_before=float(before.max()),
        worst_after=float(after.max()),
        others=pooled(moved[0]),
        others_per_neuron=pooled(moved[1]),
        others_zeroing=pooled(zeroed),
    )
