"""Ours against the official implementations: every case of a golden directory.

`pytest tests/test_upstream.py --goldens DIR` runs another directory of either format.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from baselines._layers import timestep_frequencies
from harness.ddpm import Ddpm
from harness.denoiser import Denoiser
from harness.flow import Flow
from harness.guidance import FIRST_CHANNELS, Asked, classifier_free, guided, guided_channels, scale_at
from harness.images import center_crop, to_uint8
from harness.schedule import learning_rate
from harness.sde import diffusion, sample_sde
from harness.spec import (
    DdimSampler,
    DdpmObjective,
    DdpmSampler,
    FlowObjective,
    Guidance,
    OdeSampler,
    Recipe,
    SdeSampler,
)
from harness.weights import load_official
from tests import upstream_encoder
from tests.encoder_goldens import EncoderGolden
from tests.goldens import Golden
from tests.official import flow_of, is_reversed, network_of, ode_sampler, sde_sampler

Outputs = dict[str, Tensor]


@pytest.fixture(autouse=True)
def frequencies_as_the_goldens_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The goldens' processor rounded frequency 13 up, which lies nearer below; others round others so.

    The official code itself departs so far between processors: guided sampling from t = 999 multiplies that one
    rounding until it is more than a case allows. So each case gets the frequencies that its reference had.
    """
    exponents = -math.log(10000) * torch.arange(128, dtype=torch.float32) / 128
    frequencies = exponents.double().exp().float()
    frequencies[13] = frequencies[13].nextafter(torch.tensor(1.0))
    ours = timestep_frequencies(torch.device("cpu"))
    torch.testing.assert_close(ours, frequencies, rtol=torch.finfo(torch.float32).eps, atol=0)
    monkeypatch.setattr("baselines._layers.timestep_frequencies", frequencies.to)


def test_matches_the_official_implementation(golden: Golden | EncoderGolden, request: pytest.FixtureRequest) -> None:
    what = golden.group if isinstance(golden, EncoderGolden) else f"{golden.arch} {golden.kind}"
    check = _check_of(golden)
    if check is not None:
        check(golden)
        return
    message = f"not implemented: {what}"
    if request.config.getoption("--goldens-strict"):
        pytest.fail(message)
    pytest.skip(message)


def _check_of(golden: Golden | EncoderGolden) -> Callable[[Any], None] | None:
    if isinstance(golden, EncoderGolden):
        return upstream_encoder.CHECKS.get(golden.group)
    return _CHECKS.get((golden.arch, golden.kind))


def _network(golden: Golden) -> Denoiser:
    facts = golden.model_facts
    assert facts is not None
    network, official = network_of(golden.arch, facts["ctor"])
    ours = network.state_dict()
    shown = {official.names.get(key, key): key for key in official.order}
    tables = {**{key: ours[name] for name, key in shown.items() if name in ours}, **official.derived}
    assert [[key, list(tables[key].shape)] for key in official.order] == _expected_keys(facts)
    assert sum(p.numel() for p in network.parameters()) == facts["num_params"]
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == facts["num_trainable"]
    filled = golden.state_dict()
    for key in facts["kept_keys"]:
        torch.testing.assert_close(tables[key], filled[key], atol=1e-6, rtol=0)
    load_official(network, filled, official.names, official.derived)
    return network.eval()


def _expected_keys(facts: Mapping[str, Any]) -> list[list[Any]]:
    """Without the empty tensors, and the second copies of tables, that no registers at all leave in DSR's networks."""
    entries = [entry[:2] for entry in facts["state_dict"]]
    if facts["ctor"].get("register_conditioning") and not facts["ctor"].get("register_len"):
        return [[key, shape] for key, shape in entries if 0 not in shape and "_incontext." not in key]
    return entries


def _model(golden: Golden) -> None:
    network = _network(golden)
    method, y = golden.facts["method"], golden.input("y")
    if method == "label_embed":
        drop = golden.input("force_drop_ids") if "in__force_drop_ids" in golden.arrays else torch.zeros_like(y)
        null = torch.full_like(y, -1 if network.null_label is None else network.null_label)
        golden.check_all({"out__out": network.embed_label(torch.where(drop == 1, null, y))})
        return
    x, t = golden.input("x"), golden.input("t")
    if method == "forward" and "in__s" in golden.arrays:
        golden.check_all({"out__out": _head_alone(network, x, t, y, golden.input("s"))})
    elif method == "forward":
        _forward(golden, network, x, t, y)
    elif method == "forward_with_cfg":
        golden.check_all({"out__out": _guided(golden, network, x, t, y)})
    elif method == "forward_with_autoguidance":
        golden.check_all({"out__out": _autoguided(golden, network, x, t, y)})
    elif method == "grad":
        golden.check_all(_gradients(golden, network, x, t, y))
    else:
        pytest.fail(f"{golden.id}: unknown method {method}")


def _forward(golden: Golden, network: Denoiser, x: Tensor, t: Tensor, y: Tensor) -> None:
    seen: Outputs = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, output: Tensor) -> None:
            seen[name] = output

        return hook

    modules = dict(network.named_modules())
    middle = [name for name in golden.facts["outputs"] if name.startswith("mid__")]
    for name in middle:
        modules[name.removeprefix("mid__")].register_forward_hook(keep(name))
    out = network(x, t, y)
    for name in middle:
        golden.check(name, _prefix_first(network, seen[name]))
    golden.check_all({"out__out": out})


def _prefix_first(network: Denoiser, tokens: Tensor) -> Tensor:
    """The official order: what rides behind the patches here stands in front of them there."""
    if tokens.dim() < 3 or tokens.shape[1] == network.patch_tokens:
        return tokens
    return torch.cat([tokens[:, network.patch_tokens :], tokens[:, : network.patch_tokens]], dim=1)


def _head_alone(network: Any, x: Tensor, t: Tensor, y: Tensor, s: Tensor) -> Tensor:
    """DiT-DH with the trunk's output given."""
    _, (_, _, tokens) = network.embed(x, t, network.embed_label(y))
    behind = s.shape[1] - network.patch_tokens
    condition = (network.s_projector(torch.cat([s[:, behind:], s[:, :behind]], dim=1)),)
    for index in range(network.trunks[1].start, network.depth):
        tokens = network.registers.enter(index, tokens, network.embed_label(y))
        tokens = network.step(index, tokens, condition)
    out: Tensor = network.decode(network.registers.leave(tokens), condition)
    return out


def _guided(golden: Golden, network: Denoiser, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The official calling convention: two halves, the second half of x replaced by the first."""
    half = x[: len(x) // 2]
    c, u = network(torch.cat([half, half]), t, y).chunk(2)
    if golden.arch in ("DiT", "SiT"):
        scale, channels = golden.params["cfg_scale"], min(guided_channels(Guidance(), FIRST_CHANNELS), c.shape[1])
        return torch.cat([classifier_free(c, u, scale, channels), classifier_free(u, c, 1 - scale, channels)])
    out = classifier_free(c, u, _scales(golden, t[: len(half)]), x.shape[1])
    return torch.cat([out, out])


def _autoguided(golden: Golden, network: Denoiser, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    weak = _network(golden.guide())
    if golden.arch.startswith("DDT"):
        return classifier_free(network(x, t, y), weak(x, t, y), _scales(golden, t), x.shape[1])
    half = len(x) // 2
    x, t, y = x[:half], t[:half], y[:half]
    out = classifier_free(network(x, t, y), weak(x, t, y), _scales(golden, t), x.shape[1])
    return torch.cat([out, out])


def _scales(golden: Golden, t_N: Tensor) -> Tensor:
    """The scale of each sample, (N, 1, 1, 1), by our rule for intervals on the networks' own axis."""
    scale, params = golden.params["cfg_scale"], golden.params
    if golden.arch.startswith("DDT"):
        low, high = params.get("cfg_interval", (0.0, 1.0))
        guidance = Guidance(scale=scale, interval=(1 - high, 1 - low), channels="all")
        return scale_at(guidance, t_N, lambda common: 1 - common).view(-1, 1, 1, 1)
    inside_scale = max(params.get("interval_cfg", 1.0), 1.0)
    inside = [
        Guidance(scale=2.0, interval=(1 - high, 1 - low), outside=1.0, edges="left-open")
        for low, high in params.get("cfg_interval", [])
    ]
    is_inside = any(float(scale_at(g, t_N[:1], lambda common: 1 - common)) == 2.0 for g in inside)
    return torch.tensor(inside_scale if is_inside else scale)


def _gradients(golden: Golden, network: Denoiser, x: Tensor, t: Tensor, y: Tensor) -> Outputs:
    if golden.params.get("requires_grad_all"):
        network.requires_grad_(requires_grad=True)
    x.requires_grad_(True)
    loss = (network(x, t, y) * golden.input("g")).mean()
    loss.backward()
    assert golden.model_facts is not None
    _, official = network_of(golden.arch, golden.model_facts["ctor"])
    parameters = dict(network.named_parameters())
    norms = [parameters[official.names.get(name, name)].grad for name in golden.facts["grad_names"]]
    assert x.grad is not None
    return {
        "out__out": loss.reshape(1),
        "out__grad_x": x.grad,
        "out__grad_l2": torch.stack([torch.linalg.vector_norm(g) for g in norms if g is not None]),
    }


class _Toy:
    """f(x, t) = a x + b t + c sin(x), and the times at which it was asked."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.a, self.b, self.c = (params["model"][name] for name in "abc")
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t_N: Tensor) -> Tensor:
        self.times.append(t_N[0].float())
        out: Tensor = self.a * x + self.b * t_N.view(-1, *[1] * (x.dim() - 1)) + self.c * torch.sin(x)
        return out


def _path(golden: Golden) -> None:
    """All of it on our axis; RAE's and DSR's velocities and derivatives point the other way."""
    params, create = golden.params, golden.params["create"]
    x0, x1, x, own_t_N = (golden.input(name) for name in ("x0", "x1", "x", "t"))
    flow, toy = flow_of(params, create), _Toy(params)
    t_N = flow.own_times(own_t_N)
    t, sign, path = t_N.view(-1, 1, 1, 1), -1 if is_reversed(params) else 1, flow.path
    mean, variance = path.drift(x, t)
    got: Outputs = {
        "out__alpha": path.alpha(t_N),
        "out__d_alpha": sign * path.d_alpha(t_N),
        "out__sigma": path.sigma(t_N),
        "out__d_sigma": sign * path.d_sigma(t_N),
        "out__d_alpha_alpha_ratio": sign * path.log_slope(t_N),
        "out__xt": flow.interpolate(x1, x0, t_N),
        "out__ut": sign * flow.target_velocity(x1, x0, t_N),
        "out__drift_mean": sign * mean,
        "out__drift_var": sign * variance,
        "out__score_from_velocity": flow.score_from_velocity(sign * x1, x, t),
        "out__noise_from_velocity": flow.noise_from_velocity(sign * x1, x, t),
        "out__velocity_from_score": sign * flow.velocity_from_score(x1, x, t),
    }
    forms = {name: name.lower() for name in ("SBDM", "sigma", "linear", "decreasing")}
    forms["inccreasing_decreasing"] = "increasing-decreasing"
    for name, form in forms.items():
        sampler = SdeSampler.model_validate({"kind": "sde", "diffusion": form, "diffusion_norm": params["norm"]})
        got[f"out__diffusion_{name}"] = diffusion(flow, sampler, x, t).flatten() * (sign if form == "sbdm" else 1)
    for prediction in params["predictions"]:
        other = flow_of(params, create, prediction)
        got[f"out__ode_drift_{prediction}"] = sign * other.velocity(toy, x, t_N)
        got[f"out__score_{prediction}"] = other.score(toy, x, t_N)
        for weight in ("none",) if prediction in ("velocity", "data") else ("none", "velocity", "likelihood"):
            loss = flow_of(params, create, prediction, weight).loss(toy, x1, x0, t_N)
            got[f"out__loss_{prediction}_{weight}"] = loss * (sign if weight == "likelihood" else 1)
    golden.check_all(got)


def _time(golden: Golden) -> None:
    flow = flow_of(golden.params, golden.params["create"])
    interval = flow.training_interval()
    times = flow.own_times(flow.training_times(golden.input("u")))
    golden.check_all({"out__t": times, "out__interval": torch.tensor([interval.start, interval.end])})


def _ode(golden: Golden) -> None:
    toy, sample = _Toy(golden.params), golden.params["sample"]
    states = flow_of(golden.params, golden.params["create"]).sample_ode(
        toy, golden.input("z"), ode_sampler(sample), trajectory=True, reverse=sample.get("reverse", False)
    )
    got = {"out__traj": states}
    if "out__model_ts" in golden.arrays:
        got["out__model_ts"] = torch.stack(toy.times)
    golden.check_all(got)


def _sde(golden: Golden) -> None:
    toy = _Toy(golden.params)
    sampler = sde_sampler(golden.params["sample"])
    fresh = _replay(golden.input("noises"))
    states = sample_sde(flow_of(golden.params, golden.params["create"]), toy, golden.input("z"), sampler, fresh)
    golden.check_all({"out__traj": torch.stack(list(states)), "out__model_ts": torch.stack(toy.times)})


def _likelihood(golden: Golden) -> None:
    signs = 2 * golden.input("eps01").float() - 1
    log_p, z = flow_of(golden.params, golden.params["create"]).log_likelihood(
        _Toy(golden.params), golden.input("x"), ode_sampler(golden.params["sample"]), lambda: signs
    )
    golden.check_all({"out__logp": log_p, "out__z": z})


def _replay(noises: Tensor) -> Callable[[], Tensor]:
    stream: Iterator[Tensor] = iter(noises)
    return lambda: next(stream)


def _ddpm(golden: Golden) -> Ddpm:
    create = golden.params["create"]
    known = {"timestep_respacing", "learn_sigma", "sigma_small", "noise_schedule", "use_kl", "rescale_learned_sigmas"}
    unknown = set(create) - known
    assert not unknown, f"{golden.id}: {unknown} are not implemented"
    learned = create.get("learn_sigma", True)
    schedule = create.get("noise_schedule", "linear")
    variance = "learned_range" if learned else "fixed_small" if create.get("sigma_small") else "fixed_large"
    loss = "kl" if create.get("use_kl") else "rescaled_mse" if create.get("rescale_learned_sigmas") else "mse"
    objective = DdpmObjective.model_validate({"kind": "ddpm", "schedule": schedule, "variance": variance, "loss": loss})
    return Ddpm(objective, create.get("timestep_respacing", ""))


class _ToyDdpm:
    """Noise a x + b t / 1000 + c sin(x), and variance logits tanh(d x + e) where they are learned."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params["model"]
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t_N: Tensor) -> Tensor:
        self.times.append(t_N[0])
        a, b, c, d, e = (self.params[name] for name in "abcde")
        noise: Tensor = a * x + b * t_N.view(-1, 1, 1, 1).float() / 1000 + c * torch.sin(x)
        if not self.params.get("learn_sigma", True):
            return noise
        return torch.cat([noise, torch.tanh(d * x + e)], dim=1)


def _schedule(golden: Golden) -> None:
    ddpm, stride = _ddpm(golden), golden.params["stride"]
    tables = {
        "betas": ddpm.betas,
        "alphas_cumprod": ddpm.alphas_cumprod,
        "posterior_variance": ddpm.posterior_variance,
        "posterior_log_variance_clipped": ddpm.posterior_log_variance_clipped,
        "posterior_mean_coef1": ddpm.posterior_mean_coef1,
        "posterior_mean_coef2": ddpm.posterior_mean_coef2,
        "timestep_map": ddpm.timestep_map,
    }
    golden.check_all({f"out__{name}": table[::stride] for name, table in tables.items()})


def _ddpm_loss(golden: Golden) -> None:
    ddpm, toy = _ddpm(golden), _ToyDdpm(golden.params)
    data, t, noise = golden.input("x"), golden.input("t"), golden.input("noise")
    clip = golden.params["clip_denoised"]
    x = ddpm.noised(data, noise, t)
    mean, log_variance = ddpm.posterior(data, x, t)
    guess = ddpm.denoise(toy, x, t, clip_denoised=clip)
    got = {
        "out__x_t": x,
        "out__post_mean": mean,
        "out__post_log_variance": log_variance.expand_as(x),
        "out__p_mean": guess.mean,
        "out__p_variance": guess.variance,
        "out__p_log_variance": guess.log_variance,
        "out__p_pred_xstart": guess.data,
        "out__prior_bpd": ddpm.prior_bits(data),
    }
    if "out__vb_bpd" in golden.arrays:
        got["out__vb_bpd"] = ddpm.variational_bits(toy, data, x, t, clip_denoised=clip)
    got |= {f"out__loss_{name}": term for name, term in ddpm.loss_terms(toy, data, noise, t).items()}
    golden.check_all(got)


def _ddpm_sample(golden: Golden) -> None:
    ddpm, toy, params = _ddpm(golden), _ToyDdpm(golden.params), golden.params
    z, fresh = golden.input("z"), _replay(golden.input("noises"))
    respacing, clip = params["create"]["timestep_respacing"], params["clip_denoised"]
    if params["sampler"] == "ddpm":
        ancestral = DdpmSampler(kind="ddpm", respacing=respacing, clip_denoised=clip)
        states = list(ddpm.sample_ddpm(toy, z, ancestral, fresh))
    else:
        implicit = DdimSampler(kind="ddim", respacing=respacing, clip_denoised=clip, eta=params["eta"])
        states = list(ddpm.sample_ddim(toy, z, implicit, fresh))
    golden.check_all(
        {
            "out__traj": torch.stack([state for state, _ in states]),
            "out__pred_xstart": torch.stack([data for _, data in states]),
            "out__model_ts": torch.stack(toy.times),
        }
    )


def _train(golden: Golden) -> None:
    network, y = _network(golden), golden.input("y")
    x, noise, t = golden.input("x"), golden.input("noise"), golden.input("t")
    if golden.params["family"] == "ddpm":
        terms = _ddpm(golden).loss_terms(lambda a, b: network(a, b, y), x, noise, t)
        golden.check_all({f"out__loss_{name}": term for name, term in terms.items()})
    else:
        flow = flow_of(golden.params, golden.params["create"])
        loss = flow.loss(lambda a, b: network(a, b, y), x, noise, flow.own_times(t))
        golden.check_all({"out__loss_loss": loss})


def _sample(golden: Golden) -> None:
    network, params = _network(golden), golden.params
    z, y, scale = golden.input("z"), golden.input("y"), golden.params.get("cfg_scale", 1.0)
    weak = _network(golden.guide()) if "guide_model" in golden.facts else None
    channels = guided_channels(Guidance(), z.shape[1]) if golden.arch in ("DiT", "SiT") else z.shape[1]
    times: list[Tensor] = []

    def model(x: Tensor, t_N: Tensor) -> Tensor:
        times.append(t_N[0])
        if scale == 1.0:
            return network(x, t_N, y)  # type: ignore[no-any-return]
        against = weak(x, t_N, y) if weak else network(x, t_N, torch.full_like(y, params["null_label"]))
        scales = scale if golden.arch in ("DiT", "SiT") else _scales(golden, t_N)
        return classifier_free(network(x, t_N, y), against, scales, channels)

    with torch.no_grad():
        out = _sampled(golden, model, z)
    golden.check_all({"out__out_first_half": out, "out__model_ts": torch.stack(times)})


def _sampled(golden: Golden, model: Callable[[Tensor, Tensor], Tensor], z: Tensor) -> Tensor:
    params = golden.params
    if params["family"] == "ode":
        return flow_of(params, params["create"]).sample_ode(model, z, ode_sampler(params["sample"]))
    fresh = _replay(golden.input("noises")[:, : len(z)])
    if params["family"] == "sde":
        states = sample_sde(flow_of(params, params["create"]), model, z, sde_sampler(params["sample"]), fresh)
        return list(states)[-1]
    sampler = DdpmSampler(kind="ddpm", respacing=params["create"]["timestep_respacing"])
    return list(_ddpm(golden).sample_ddpm(model, z, sampler, fresh))[-1][0]


def _jit_flow(noise_scale: float, least_divisor: float = 0.05) -> Flow:
    objective = {"kind": "flow", "prediction": "data", "clamped_target": True, "noise_scale": noise_scale}
    objective["least_divisor"] = least_divisor
    return Flow(FlowObjective.model_validate(objective))


def _jit_loss(golden: Golden) -> None:
    network, y = _network(golden), golden.input("y")
    x, noise, t = golden.input("x"), golden.input("e"), golden.input("t")
    flow = _jit_flow(golden.params["noise_scale"], golden.params["t_eps"])
    share = t.view(-1, 1, 1, 1)
    if torch.allclose(torch.from_numpy(golden.arrays["out__z"]), share * x + (1 - share) * noise, atol=1e-5):
        noise = noise / golden.params["noise_scale"]
    seen: list[Tensor] = []

    def model(z: Tensor, t_N: Tensor) -> Tensor:
        seen.extend([z, network(z, t_N, y)])
        return seen[1]

    losses_N = flow.loss(model, x, noise, t)
    z, x_pred = seen
    golden.check_all(
        {"out__loss": losses_N.mean()[None], "out__z": z, "out__x_pred": x_pred, "out__loss_per_sample": losses_N}
    )


def _jit_sample(golden: Golden) -> None:
    network, params = _network(golden), golden.params
    y, noise = golden.input("y"), golden.input("noise")
    assert network.null_label is not None
    null = torch.full_like(y, network.null_label)
    times: list[Tensor] = []

    def conditional(x: Tensor, t_N: Tensor) -> Tensor:
        times.append(t_N[0])
        return network(x, t_N, y)  # type: ignore[no-any-return]

    asked = Asked(conditional, lambda x, t_N: network(x, t_N, null), conditional)
    interval = (params["interval_min"], params["interval_max"])
    guidance = Guidance(scale=params["cfg"], interval=interval, channels="all", edges="open")
    method = "heun-euler" if params["method"] == "heun" else params["method"]
    points = params["steps"] + 1
    sampler = OdeSampler.model_validate({"kind": "ode", "method": method, "points": points})
    model = guided(asked, guidance, None, lambda common: common, noise.shape[1])
    scale = params["noise_scale"]
    with torch.no_grad():
        states = _jit_flow(scale).sample_ode(model, noise * scale, sampler, trajectory=True)
    golden.check_all({"out__out": states[-1], "out__traj": states[1:], "out__model_ts": torch.stack(times)})


def _jit_time(golden: Golden) -> None:
    mean, std = golden.params["P_mean"], golden.params["P_std"]
    objective = {"kind": "flow", "time_distribution": "logit-normal", "time_mean": mean, "time_std": std}
    uniform = torch.special.ndtr(golden.input("normal").double())
    golden.check_all({"out__t": Flow(FlowObjective.model_validate(objective)).training_times(uniform)})


def _learning_rate(golden: Golden) -> None:
    params = golden.params
    if params["repo"] == "JiT":
        args = params["args"]
        recipe = Recipe(
            steps=args["epochs"],
            learning_rate=args["lr"],
            warmup_steps=args["warmup_epochs"],
            warmup="from-zero",
            decay="none" if args["lr_schedule"] == "constant" else args["lr_schedule"],
            decay_end=args["epochs"],
            final_learning_rate=args["min_lr"],
        )
        rates = [learning_rate(recipe, epoch) for epoch in golden.input("epoch").tolist()]
        golden.check_all({"out__lr": np.array(rates)})
        return
    recipe = _rae_recipe(params["training"], params["steps_per_epoch"])
    rates = [learning_rate(recipe, step) for step in golden.input("step").tolist()]
    adam = [*recipe.betas, recipe.epsilon, recipe.weight_decay]
    golden.check_all({"out__lr": np.array(rates), "out__adam": np.array(adam)})


def _rae_recipe(training: Mapping[str, Any], steps_per_epoch: int) -> Recipe:
    """Keys that the official code does not know, such as `base_lr` of the optimizer, fall back to its defaults."""
    optimizer, schedule = training["optimizer"], training["scheduler"]
    shape = schedule.get("type", schedule.get("schedule_type", "linear"))
    start = schedule.get("warmup_epochs", schedule.get("decay_start_epoch", 0))
    rate, base = optimizer.get("lr", 2e-4), schedule.get("base_lr", optimizer.get("lr", 2e-4))
    return Recipe(
        steps=schedule["decay_end_epoch"] * steps_per_epoch,
        learning_rate=rate,
        epsilon=optimizer.get("eps", 1e-8),
        betas=optimizer.get("betas", (0.9, 0.95)),
        weight_decay=optimizer.get("weight_decay", 0.0),
        warmup_steps=start * steps_per_epoch,
        warmup="linear" if schedule.get("warmup_from_zero") else "flat",
        decay=shape,
        decay_end=schedule["decay_end_epoch"] * steps_per_epoch,
        final_learning_rate=rate * schedule.get("final_lr", base) / base,
    )


def _crop(golden: Golden) -> None:
    image = Image.fromarray(golden.arrays["in__image"])
    golden.check_all({"out__crop": np.asarray(center_crop(image, golden.params["image_size"]))})


def _uint8(golden: Golden) -> None:
    values = golden.arrays["in__v"]
    got = {"dit_sit": to_uint8(values, "truncate-128"), "jit": to_uint8(values, "round")}
    got["rae_dsr"] = to_uint8(2 * values.astype(np.float64) - 1, "truncate-255")
    golden.check_all({f"out__{name}": value for name, value in got.items()})


_NETWORKS = ("DiT", "SiT", "JiT", "LightningDiT", "LightningDiT+registers", "DDT", "DDT+registers")
_TRANSPORTS = ("SiT-transport", "RAE-transport", "DSR-transport")

_CHECKS: Mapping[tuple[str, str], Callable[[Golden], None]] = {
    **{(network, "model"): _model for network in _NETWORKS},
    **{(network, "e2e_train"): _train for network in _NETWORKS},
    **{(network, "e2e_sample"): _sample for network in _NETWORKS},
    **{(transport, "transport_path"): _path for transport in _TRANSPORTS},
    **{(transport, "transport_time"): _time for transport in _TRANSPORTS},
    **{(transport, "transport_ode"): _ode for transport in _TRANSPORTS},
    **{(transport, "transport_sde"): _sde for transport in _TRANSPORTS},
    **{(transport, "transport_likelihood"): _likelihood for transport in _TRANSPORTS},
    ("JiT", "jit_loss"): _jit_loss,
    ("JiT", "jit_sample"): _jit_sample,
    ("JiT", "jit_sample_t"): _jit_time,
    ("DiT-ddpm", "ddpm_schedule"): _schedule,
    ("DiT-ddpm", "ddpm_loss"): _ddpm_loss,
    ("DiT-ddpm", "ddpm_sample"): _ddpm_sample,
    ("recipe", "lr_schedule"): _learning_rate,
    ("recipe", "center_crop"): _crop,
    ("recipe", "to_uint8"): _uint8,
}
