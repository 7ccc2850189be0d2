"""Our encoder stage against the official one: a check for each group of goldens."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dsr.encoder import Rule, attach, detach, largest, redirect, redirected, rule_of
from dsr.loss_mask import token_weights
from dsr.neurons import Search, merged
from dsr.search import Scores, by_layer, norms, ranked, score, watched_pass
from harness.decoders import DecoderShape
from harness.encoder import Encoder, Features
from harness.images import center_crop
from harness.latent_statistics import LatentMoments
from harness.mae_decoder import MaeDecoder, unpatchify
from harness.rae import NO_WHITENING, AddNoise, LatentForm, Noise, Whitening, decode, encode, no_noise, whitening_of
from harness.registers import AddedRegisters, LossMask
from harness.weights import load_official
from tests.encoder_goldens import EncoderGolden, fill
from tests.upstream_geneval import GENEVAL_CHECKS
from tests.upstream_metrics import METRIC_CHECKS

Neurons = Mapping[int, tuple[int, ...]]

# Official variants of the rule, as ours: what registers take.  The "original" code treats the first image alone.
_VALUES = {"dsr": "layer", "original_head": "layer", "original_341e15e": "neuron-plain", "per_neuron_signed": "neuron"}


def _patches(variant: str, mode: str) -> str:
    return "trimmed-mean" if (variant, mode) == ("original_341e15e", "mean") else mode.replace("_", "-")


def _neurons(listed: Mapping[str, list[int]]) -> dict[int, tuple[int, ...]]:
    return {int(layer): tuple(dict.fromkeys(neurons)) for layer, neurons in listed.items()}


def _registers(args: Mapping[str, Any], variant: str = "dsr", mode: str = "zero") -> AddedRegisters:
    return AddedRegisters.model_validate(
        {
            "kind": "test-time",
            "neuron_list": "golden",
            "neurons": _neurons(args["neurons_to_ablate"]),
            "count": args.get("num_registers", 1),
            "value": _VALUES[variant],
            "patches": _patches(variant, mode),
            "first_patch": "kept",
            "scale": args.get("scale", 1.0),
        }
    )


def _fill_rule(golden: EncoderGolden) -> None:
    for example in golden.expected:
        value = fill(example["name"], tuple(example["shape"]), example["salt"], example["gain"])
        np.testing.assert_allclose(value.ravel(), example["values"], rtol=1e-6)


def _hook_function(golden: EncoderGolden) -> None:
    args, activation = golden.args, golden.input("act")
    neurons = torch.tensor(sorted(set(args["neuron_indices"])))
    for variant in args["variants"]:
        for mode in args["normal_values"]:
            rule = Rule(args["num_registers"], 1, _VALUES[variant], _patches(variant, mode), args["scale"])
            moved = _hooked(activation, neurons, rule, in_turn=variant.startswith("original"))
            if variant.startswith("original"):
                moved[1:] = activation[1:]
            golden.check(f"{variant}.{mode}", moved)


def _hooked(activation: Tensor, neurons: Tensor, rule: Rule, *, in_turn: bool) -> Tensor:
    """Ours; with no register, as the official slice -0: has it, and with several scales one after another."""
    if rule.count == 0:
        with pytest.raises(AssertionError):
            redirected(activation, neurons, rule)
        value = largest(activation[:, :, neurons], rule.value).expand(-1, activation.shape[1], len(neurons))
        return activation.index_copy(2, neurons, value)
    moved = redirected(activation, neurons, rule)
    if in_turn and not isinstance(rule.scale, float):
        seen = activation.clone()
        for place, scale in enumerate(rule.scale, start=activation.shape[1] - rule.count):
            seen[:, place, neurons] = scale * largest(seen[:, :, neurons], rule.value)[:, 0]
        moved[:, -rule.count :] = seen[:, -rule.count :]
    return moved


def _tower(golden: EncoderGolden) -> None:
    encoder, pixels = golden.tower(), golden.input("pixel_values")
    plain = encoder(pixels)
    golden.check("plain.post_ln", plain.normed)
    golden.check("plain.pre_ln", plain.raw)
    attach(_registers({**golden.args, "neurons_to_ablate": {}}), encoder)
    appended = encoder(pixels)
    golden.check("appended_only.post_ln", appended.normed)
    checked = {"plain.post_ln", "plain.pre_ln", "appended_only.post_ln"}
    for variant in golden.args["variants"]:
        for mode in golden.args["normal_values"]:
            attach(_registers(golden.args, variant, mode), encoder)
            name = f"{variant}.{mode}"
            checked |= _check_features(golden, name, encoder, pixels, appended)
    detach(encoder)
    assert torch.equal(encoder(pixels).normed, plain.normed)
    assert checked == set(golden.outputs())


def _check_features(golden: EncoderGolden, name: str, encoder: Encoder, pixels: Tensor, appended: Features) -> set[str]:
    """Compare features, and whatever else a case keeps of this variant; returns the names of what was compared."""
    is_first_alone = name.startswith("original")
    states: list[Tensor] = []
    features = encoder(pixels, lambda _, tokens: states.append(tokens))
    first = encoder._embed(pixels)[0]
    registers = states[-1][:, -encoder.extra.count :]
    if is_first_alone:
        features = Features(*(_first_of(ours, rest) for ours, rest in zip(features, appended, strict=True)))
    got = {f"{name}.post_ln": features.normed, f"{name}.pre_ln": features.raw}
    got |= {f"{name}.hidden_states.{index}": state for index, state in enumerate([first, *states])}
    got |= {f"{name}.register_pre_ln": registers}
    wanted = golden.outputs(f"{name}.")
    for each in wanted:
        if is_first_alone and len(pixels) > 1 and not each.endswith("_ln"):
            continue
        value = got[each]
        if is_first_alone and each.endswith("register_pre_ln"):
            golden.compare(each, value[:1], golden.arrays[f"out.{each}"][:1])
            continue
        golden.check(each, value)
    return set(wanted)


def _first_of(ours: Tensor, rest: Tensor) -> Tensor:
    return torch.cat([ours[:1], rest[1:]])


def _encoder_class(golden: EncoderGolden) -> None:
    encoder = golden.tower()
    attach(_registers(golden.args), encoder)
    features = encoder(golden.input("pixel_values"))
    golden.check_all({"post_ln": features.normed, "pre_ln": features.raw})


def _search(args: Mapping[str, Any], chosen: Mapping[str, Any]) -> Search:
    highest = chosen.get("highest_layer", -1)
    return Search(
        threshold=chosen["register_norm_threshold"],
        layer=args["detect_outliers_layer"],
        score="activation",
        sparsity=args.get("sparsity_frac_threshold", 0.5) if args["apply_sparsity_filter"] else None,
        sparsity_activation=args.get("sparsity_activation_threshold", 0.5),
        lowest_layer=chosen.get("lowest_layer", 0),
        highest_layer=-1 if highest is None else highest,
        top_k=chosen["top_k"],
        rows="all",
    )


def _searched(golden: EncoderGolden, encoder: Encoder, search: Search) -> tuple[Scores, Tensor]:
    """Scores image by image, as the official code goes through them, and the norms of all."""
    images = golden.input("images")
    outputs = watched_pass(encoder, images, search.layer % encoder.depth).outputs
    return score(encoder, torch.split(images, 1), search), norms(encoder, outputs, search)


def _discovery(golden: EncoderGolden) -> None:
    encoder, search = golden.tower(), _search(golden.args, golden.args)
    scores, maps = _searched(golden, encoder, search)
    golden.check("mean_scores", scores.mean)
    golden.check("norm_maps", maps)
    assert scores.images_with_outliers == golden.expected["images_used"]
    assert by_layer(ranked(scores, search)) == _neurons(golden.expected["neurons_to_ablate"])
    shown = len(golden.arrays["out.ranked_layer"])
    everywhere = search.model_copy(update={"top_k": shown, "highest_layer": -1, "lowest_layer": 0})
    layers, neurons, values = zip(*ranked(scores, everywhere), strict=True)
    assert list(layers) == golden.arrays["out.ranked_layer"].tolist()
    assert list(neurons) == golden.arrays["out.ranked_neuron"].tolist()
    golden.check("ranked_score", np.array(values))


def _recursive(golden: EncoderGolden) -> None:
    encoder, args, expected = golden.tower(), golden.args, golden.expected
    searches = [_search(args, args[name]) for name in ("pass1", "pass2")]
    scores, maps = _searched(golden, encoder, searches[0])
    golden.check("pass1.mean_scores", scores.mean)
    golden.check("pass1.norm_maps", maps)
    first = by_layer(ranked(scores, searches[0]))
    assert first == _neurons(expected["pass1"])
    with _between_passes(golden, encoder, first):
        again, maps = _searched(golden, encoder, searches[1])
    golden.check("pass2.mean_scores", again.mean)
    golden.check("pass2.norm_maps", maps)
    second = by_layer(ranked(again, searches[1]))
    assert second == _neurons(expected["pass2"])
    assert [scores.images_with_outliers, again.images_with_outliers] == expected["images_used"]
    both = merged(first, second)
    assert both == _neurons(expected["merged"])
    assert list(both) == [int(layer) for layer in expected["merged"]]
    attach(_with(golden, both), encoder)
    for name in golden.outputs("merged."):
        chosen = [int(index) for index in name[name.index("images ") + len("images ") : -1].split(",")]
        features = encoder(golden.input("images")[chosen])
        golden.check(name, features.normed if "post_ln" in name else features.raw)


@contextmanager
def _between_passes(golden: EncoderGolden, encoder: Encoder, first: Neurons) -> Iterator[None]:
    """The first neurons at work; as the code is written without a token for them, so that patches play the register."""
    registers = _with(golden, first)
    if "NO register token appended" not in golden.args["pass2_mode"]:
        attach(registers, encoder)
        yield
        detach(encoder)
        return
    hooks = [redirect(encoder, layer, ours, rule_of(registers, encoder)) for layer, ours in first.items()]
    yield
    for hook in hooks:
        hook.remove()


def _with(golden: EncoderGolden, neurons: Neurons) -> AddedRegisters:
    return AddedRegisters(
        kind="test-time",
        neuron_list="golden",
        neurons=dict(neurons),
        count=golden.args["num_registers"],
        first_patch="kept",
    )


def _rae(golden: EncoderGolden) -> None:
    args, flags = golden.args, golden.args["flags"]
    encoder, decoder, whitening = golden.encoder(), _decoder_of_rae(golden), _whitening(golden)
    if "neurons_to_ablate" in args["encoder_config"]:
        attach(_registers(args["encoder_config"]), encoder)
    form = LatentForm(
        before_norm=flags.get("preln", False),
        as_grid=flags.get("reshape_to_2d", True),
        norms_of_whitened=flags.get("post_stat_norm", False),
    )
    features = encoder(encoder.normalised(golden.input("images")))
    noise: AddNoise = no_noise
    if golden.has_input("noise_uniform"):
        draws = golden.input("noise_uniform"), golden.input("noise_normal")
        noise = Noise(args["noise_tau"], *draws, norm_scaled=flags.get("norm_scaled_noise", False))
    latents = encode(features, form, whitening, noise)
    got = {"z": latents.values, "token_norm": latents.norms, "decoded": decode(latents.values, decoder, whitening)}
    got |= {"decoded_random": decode(golden.input("z_random"), decoder, whitening)}
    if "z_without_noise" in golden.outputs():
        got |= {"z_without_noise": encode(features, form, whitening).values}
    golden.check_all(got)


def _whitening(golden: EncoderGolden) -> Whitening:
    if not golden.args["normalization"]:
        return NO_WHITENING
    mean, variance = (golden.input(name) if golden.has_input(name) else None for name in ("stat_mean", "stat_var"))
    return whitening_of(mean, variance, golden.args["eps"])


def _decoder_of_rae(golden: EncoderGolden) -> MaeDecoder:
    derived = golden.args["derived"]
    shape = _shape(golden.args["decoder_config"], golden.args["decoder_patch_size"], derived["latent_dim"])
    look = {"mean": tuple(golden.args["image_mean"]), "std": tuple(golden.args["image_std"])}
    return _filled_decoder(shape.model_copy(update={"tokens": derived["base_patches"], **look}), golden, "decoder")


def _shape(config: Mapping[str, int], patch: int, channels: int) -> DecoderShape:
    return DecoderShape(
        width=config["decoder_hidden_size"],
        layers=config["decoder_num_hidden_layers"],
        heads=config["decoder_num_attention_heads"],
        hidden=config["decoder_intermediate_size"],
        patch=patch,
        latent_channels=channels,
        tokens=1,
    )


def _filled_decoder(shape: DecoderShape, golden: EncoderGolden, part: str | None) -> MaeDecoder:
    decoder = MaeDecoder(shape).eval().requires_grad_(requires_grad=False)
    state = golden.filled(part)
    state["decoder_pos_embed"] = decoder.decoder_pos_embed.clone()
    load_official(decoder, state, {}, {})
    return decoder


def _decoder(golden: EncoderGolden) -> None:
    args, latents = golden.args, golden.input("latents")
    shape = _shape(args["decoder_config"], args["patch_size"], args["hidden_size"])
    decoder = _filled_decoder(shape.model_copy(update={"tokens": args["num_patches"]}), golden, None)
    if args["drop_cls_token"]:
        latents = latents[:, 1:]
    first = last = decoder.embed(latents)
    for layer in decoder.decoder_layers:
        last = layer(last)
    patches = decoder.patches(latents)
    golden.check_all(
        {
            "logits": patches,
            "decoder_pos_embed": decoder.decoder_pos_embed,
            "hidden_states.0": first,
            "hidden_states.last": last,
            "unpatchified": unpatchify(patches, args["patch_size"]),
        }
    )


def _statistics(golden: EncoderGolden) -> None:
    batches = [golden.input(f"batch{index}") for index in range(golden.args["batches"])]
    moments = LatentMoments()
    for batch in batches:
        moments.add(batch)
    golden.check("dsr.mean", moments.mean)
    golden.check("dsr.var", moments.variance)
    assert moments.count == golden.arrays["out.dsr.count"]
    if golden.outputs("rae_momentum"):
        mean, variance = torch.zeros_like(batches[0][0]), torch.ones_like(batches[0][0])
        for batch in batches:
            mean = torch.lerp(mean, batch.mean(0), golden.args["rae_momentum"])
            variance = torch.lerp(variance, batch.var(0, unbiased=False), golden.args["rae_momentum"])
        golden.check("rae_momentum.mean", mean)
        golden.check("rae_momentum.var", variance)


def _crop(golden: EncoderGolden) -> None:
    for index, (_, _, size) in enumerate(golden.args["list"]):
        image = Image.fromarray(golden.arrays[f"in.image{index}"])
        golden.check(f"crop{index}", np.asarray(center_crop(image, size)))


def _loss_weights(golden: EncoderGolden) -> None:
    args, norms_NGG = golden.args, golden.input("token_norm")[:, 0]
    losses_NGG, times_N = golden.input("per_token_loss")[:, 0], golden.input("t")
    above, shift, all_kept = args["threshold"], args["time_dist_shift"], 1e9
    masks = {
        "none": LossMask(above=all_kept, unit="absolute"),
        "mask": LossMask(above=above, unit="absolute"),
        "shift": LossMask(above=all_kept, unit="absolute", time_shift=shift),
        "shift_logitnormal": LossMask(above=all_kept, unit="absolute", time_shift=shift, logit_normal=True),
        "shift_mask": LossMask(above=above, unit="absolute", time_shift=shift),
    }
    for name, mask in masks.items():
        weights_NGG = token_weights(mask, norms_NGG, times_N)
        golden.check(f"{name}.w", weights_NGG[:, None])
        golden.compare(f"{name}.loss", (weights_NGG * losses_NGG).mean(), golden.expected[f"{name}.loss"])
    kept_NGG = token_weights(masks["mask"], norms_NGG, times_N) > 0
    golden.check("mask", kept_NGG[:, None])
    golden.compare("filter_ratio", 1 - kept_NGG.float().mean(), golden.expected["filter_ratio"])


CHECKS: Mapping[str, Callable[[EncoderGolden], None]] = {
    "fill_rule": _fill_rule,
    "ttr_hook_function": _hook_function,
    "ttr_tower": _tower,
    "ttr_encoder_class": _encoder_class,
    "discovery": _discovery,
    "discovery_recursive": _recursive,
    "rae": _rae,
    "decoder": _decoder,
    "latent_stats": _statistics,
    "preprocess": _crop,
    "outlier_statistics": _loss_weights,
    **METRIC_CHECKS,
    **GENEVAL_CHECKS,
}
