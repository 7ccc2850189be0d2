"""Ours against the official implementations: every case of a golden directory.

`pytest tests/test_upstream.py --goldens DIR` runs another directory of the same format.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from baselines._dit import build_dit, build_sit
from harness.ddpm import Ddpm
from harness.denoiser import Denoiser
from harness.flow import Flow
from harness.guidance import classifier_free
from harness.images import center_crop, to_uint8
from harness.sde import diffusion, sample_sde
from harness.spec import DdimSampler, DdpmObjective, DdpmSampler, FlowObjective, OdeSampler, SdeSampler
from harness.weights import load_official
from tests.goldens import Golden

Outputs = dict[str, Tensor]
FAMILIES = {"DiT": build_dit, "SiT": build_sit}


def test_matches_the_official_implementation(golden: Golden, request: pytest.FixtureRequest) -> None:
    check = _CHECKS.get((golden.arch, golden.kind))
    if check is not None:
        check(golden)
        return
    message = f"not implemented: {golden.arch} {golden.kind}"
    if request.config.getoption("--goldens-strict"):
        pytest.fail(message)
    pytest.skip(message)


def _network(golden: Golden) -> Denoiser:
    assert golden.model_facts is not None
    ctor = dict(golden.model_facts["ctor"])
    dropout = ctor.pop("class_dropout_prob", 0.1)
    network = FAMILIES[golden.arch](
        {"width": ctor.pop("hidden_size"), "null_class": dropout > 0, "learn_sigma": ctor.pop("learn_sigma", True)}
        | ctor
    )
    _check_facts(golden, network)
    load_official(network, golden.state_dict(), {})
    return network.eval()


def _check_facts(golden: Golden, network: Denoiser) -> None:
    """Names, order, counts, and the fixed tables that the constructor makes."""
    facts = golden.model_facts
    assert facts is not None
    ours = network.state_dict()
    assert [[name, list(value.shape)] for name, value in ours.items()] == [e[:2] for e in facts["state_dict"]]
    assert sum(p.numel() for p in network.parameters()) == facts["num_params"]
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == facts["num_trainable"]
    filled = golden.state_dict()
    for name in facts["kept_keys"]:
        torch.testing.assert_close(ours[name], filled[name], atol=1e-6, rtol=0)


def _model(golden: Golden) -> None:
    network = _network(golden)
    method = golden.facts["method"]
    y = golden.input("y")
    if method == "label_embed":
        drop = golden.input("force_drop_ids") if "in__force_drop_ids" in golden.arrays else torch.zeros_like(y)
        assert network.null_label is not None
        labels = torch.where(drop == 1, network.null_label, y)
        golden.check_all({"out__out": network.y_embedder(labels)})  # type: ignore[operator]
        return
    x, t = golden.input("x"), golden.input("t")
    if method == "forward":
        _forward(golden, network, x, t, y)
    elif method == "forward_with_cfg":
        golden.check_all({"out__out": _guided(network, x, t, y, golden.params["cfg_scale"])})
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
        golden.check(name, seen[name])
    golden.check_all({"out__out": out})


def _guided(network: Denoiser, x: Tensor, t: Tensor, y: Tensor, scale: float) -> Tensor:
    """The official calling convention: two halves, the second half of x replaced by the first."""
    half = x[: len(x) // 2]
    c, u = network(torch.cat([half, half]), t, y).chunk(2)
    data_channels = x.shape[1]
    guided_as_unconditional = classifier_free(u, c, 1 - scale, data_channels)
    return torch.cat([classifier_free(c, u, scale, data_channels), guided_as_unconditional])


def _gradients(golden: Golden, network: Denoiser, x: Tensor, t: Tensor, y: Tensor) -> Outputs:
    x.requires_grad_(True)
    loss = (network(x, t, y) * golden.input("g")).mean()
    loss.backward()
    parameters = dict(network.named_parameters())
    norms = [parameters[name].grad for name in golden.facts["grad_names"]]
    assert x.grad is not None
    return {
        "out__out": loss.reshape(1),
        "out__grad_x": x.grad,
        "out__grad_l2": torch.stack([torch.linalg.vector_norm(g) for g in norms if g is not None]),
    }


def _flow(create: Mapping[str, Any], prediction: str | None = None, weight: str = "none") -> Flow:
    objective = {
        "kind": "flow",
        "path": create.get("path_type", "Linear").lower(),
        "prediction": prediction or create.get("prediction", "velocity"),
        "loss_weight": create.get("loss_weight") or weight,
        "training_epsilon": create.get("train_eps"),
        "sampling_epsilon": create.get("sample_eps"),
    }
    return Flow(FlowObjective.model_validate(objective))


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
    params, create = golden.params, golden.params["create"]
    x0, x1, x, t_N = (golden.input(name) for name in ("x0", "x1", "x", "t"))
    t = t_N.view(-1, 1, 1, 1)
    flow, toy = _flow(create), _Toy(params)
    path = flow.path
    mean, variance = path.drift(x, t)
    got: Outputs = {
        "out__alpha": path.alpha(t_N),
        "out__d_alpha": path.d_alpha(t_N),
        "out__sigma": path.sigma(t_N),
        "out__d_sigma": path.d_sigma(t_N),
        "out__d_alpha_alpha_ratio": path.log_slope(t_N),
        "out__xt": flow.interpolate(x1, x0, t_N),
        "out__ut": flow.target_velocity(x1, x0, t_N),
        "out__drift_mean": mean,
        "out__drift_var": variance,
        "out__score_from_velocity": flow.score_from_velocity(x1, x, t),
        "out__noise_from_velocity": flow.noise_from_velocity(x1, x, t),
        "out__velocity_from_score": flow.velocity_from_score(x1, x, t),
    }
    forms = {name: name.lower() for name in ("SBDM", "sigma", "linear", "decreasing")}
    forms["inccreasing_decreasing"] = "increasing-decreasing"
    for name, form in forms.items():
        sampler = SdeSampler.model_validate({"kind": "sde", "diffusion": form, "diffusion_norm": params["norm"]})
        got[f"out__diffusion_{name}"] = diffusion(flow, sampler, x, t).flatten()
    for prediction in params["predictions"]:
        other = _flow(create, prediction)
        got[f"out__ode_drift_{prediction}"] = other.velocity(toy, x, t_N)
        got[f"out__score_{prediction}"] = other.score(toy, x, t_N)
        for weight in ("none",) if prediction == "velocity" else ("none", "velocity", "likelihood"):
            got[f"out__loss_{prediction}_{weight}"] = _flow(create, prediction, weight).loss(toy, x1, x0, t_N)
    golden.check_all(got)


def _time(golden: Golden) -> None:
    flow = _flow(golden.params["create"])
    interval = flow.training_interval()
    times = flow.training_times(golden.input("u"))
    golden.check_all({"out__t": times, "out__interval": torch.tensor([interval.start, interval.end])})


def _ode_sampler(sample: Mapping[str, Any]) -> OdeSampler:
    method = sample.get("sampling_method", "dopri5")
    return OdeSampler(
        kind="ode",
        method="heun" if method == "heun2" else method,
        points=sample["num_steps"],
        absolute_tolerance=sample.get("atol", 1e-6),
        relative_tolerance=sample.get("rtol", 1e-3),
    )


def _ode(golden: Golden) -> None:
    toy, sample = _Toy(golden.params), golden.params["sample"]
    states = _flow(golden.params["create"]).sample_ode(
        toy, golden.input("z"), _ode_sampler(sample), trajectory=True, reverse=sample.get("reverse", False)
    )
    got = {"out__traj": states}
    if "out__model_ts" in golden.arrays:
        got["out__model_ts"] = torch.stack(toy.times)
    golden.check_all(got)


def _sde_sampler(sample: Mapping[str, Any]) -> SdeSampler:
    return SdeSampler.model_validate(
        {
            "kind": "sde",
            "method": sample.get("sampling_method", "Euler").lower(),
            "points": sample["num_steps"],
            "diffusion": sample.get("diffusion_form", "SBDM").lower().replace("inccreasing", "increasing"),
            "diffusion_norm": sample.get("diffusion_norm", 1.0),
            "last_step": str(sample.get("last_step", "Mean")).lower(),
            "last_step_size": sample.get("last_step_size", 0.04),
        }
    )


def _sde(golden: Golden) -> None:
    toy = _Toy(golden.params)
    sampler = _sde_sampler(golden.params["sample"])
    fresh = _replay(golden.input("noises"))
    states = sample_sde(_flow(golden.params["create"]), toy, golden.input("z"), sampler, fresh)
    golden.check_all({"out__traj": torch.stack(list(states)), "out__model_ts": torch.stack(toy.times)})


def _likelihood(golden: Golden) -> None:
    signs = 2 * golden.input("eps01").float() - 1
    log_p, z = _flow(golden.params["create"]).log_likelihood(
        _Toy(golden.params), golden.input("x"), _ode_sampler(golden.params["sample"]), lambda: signs
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
        loss = _flow(golden.params["create"]).loss(lambda a, b: network(a, b, y), x, noise, t)
        golden.check_all({"out__loss_loss": loss})


def _sample(golden: Golden) -> None:
    network, params = _network(golden), golden.params
    z, y, scale = golden.input("z"), golden.input("y"), golden.params.get("cfg_scale", 1.0)
    times: list[Tensor] = []

    def model(x: Tensor, t_N: Tensor) -> Tensor:
        times.append(t_N[0])
        if scale == 1.0:
            return network(x, t_N, y)  # type: ignore[no-any-return]
        unconditional = network(x, t_N, torch.full_like(y, params["null_label"]))
        return classifier_free(network(x, t_N, y), unconditional, scale, x.shape[1])

    with torch.no_grad():
        out = _sampled(golden, model, z)
    golden.check_all({"out__out_first_half": out, "out__model_ts": torch.stack(times)})


def _sampled(golden: Golden, model: Callable[[Tensor, Tensor], Tensor], z: Tensor) -> Tensor:
    params = golden.params
    if params["family"] == "ode":
        return _flow(params["create"]).sample_ode(model, z, _ode_sampler(params["sample"]))
    fresh = _replay(golden.input("noises")[:, : len(z)])
    if params["family"] == "sde":
        states = sample_sde(_flow(params["create"]), model, z, _sde_sampler(params["sample"]), fresh)
        return list(states)[-1]
    sampler = DdpmSampler(kind="ddpm", respacing=params["create"]["timestep_respacing"])
    return list(_ddpm(golden).sample_ddpm(model, z, sampler, fresh))[-1][0]


def _crop(golden: Golden) -> None:
    image = Image.fromarray(golden.arrays["in__image"])
    golden.check_all({"out__crop": np.asarray(center_crop(image, golden.params["image_size"]))})


def _uint8(golden: Golden) -> None:
    values = golden.arrays["in__v"]
    got = {"dit_sit": to_uint8(values, "truncate-128"), "jit": to_uint8(values, "round")}
    got["rae_dsr"] = to_uint8(2 * values - 1, "truncate-255")
    golden.check_all({f"out__{name}": value for name, value in got.items()})


_CHECKS: Mapping[tuple[str, str], Callable[[Golden], None]] = {
    ("DiT", "model"): _model,
    ("SiT", "model"): _model,
    ("DiT", "e2e_train"): _train,
    ("SiT", "e2e_train"): _train,
    ("DiT", "e2e_sample"): _sample,
    ("SiT", "e2e_sample"): _sample,
    ("SiT-transport", "transport_path"): _path,
    ("SiT-transport", "transport_time"): _time,
    ("SiT-transport", "transport_ode"): _ode,
    ("SiT-transport", "transport_sde"): _sde,
    ("SiT-transport", "transport_likelihood"): _likelihood,
    ("DiT-ddpm", "ddpm_schedule"): _schedule,
    ("DiT-ddpm", "ddpm_loss"): _ddpm_loss,
    ("DiT-ddpm", "ddpm_sample"): _ddpm_sample,
    ("recipe", "center_crop"): _crop,
    ("recipe", "to_uint8"): _uint8,
}
