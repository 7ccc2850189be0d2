"""Flows and chains where the answer is known in closed form."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.ddpm import Ddpm
from harness.errors import UserError
from harness.flow import Flow
from harness.objective import draw_samples, times_asked
from harness.respacing import kept_steps
from harness.sde import sample_sde
from harness.spec import DdimSampler, DdpmObjective, FlowObjective, OdeSampler, SdeSampler
from tests.builders import quick_config

DATA_DEVIATION = 0.5
COUNT = 4000


def _flow(path: str, prediction: str = "velocity") -> Flow:
    return Flow(FlowObjective.model_validate({"kind": "flow", "path": path, "prediction": prediction}))


def _exact_model(flow: Flow, x: Tensor, t_N: Tensor) -> Tensor:
    """What a perfect network says where the data are N(0, 0.5^2)."""
    t = t_N.view(-1, 1)
    variance = (flow.path.alpha(t) * DATA_DEVIATION) ** 2 + flow.path.sigma(t) ** 2
    score = -x / variance
    if flow.prediction == "score":
        return score
    if flow.prediction == "noise":
        return -flow.path.sigma(t) * score
    slope = flow.path.alpha(t) * flow.path.d_alpha(t) * DATA_DEVIATION**2 + flow.path.sigma(t) * flow.path.d_sigma(t)
    return x * slope / variance


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
def test_the_ode_carries_noise_to_the_data(path: str, prediction: str) -> None:
    flow = _flow(path, prediction)
    noise = torch.randn(COUNT, 1, generator=torch.Generator().manual_seed(0))
    sampler = OdeSampler(kind="ode", method="heun", points=200)
    out = flow.sample_ode(lambda x, t: _exact_model(flow, x, t), noise, sampler)
    assert float(out.std() / noise.std()) == pytest.approx(DATA_DEVIATION, rel=0.01)


@pytest.mark.parametrize("diffusion", ["sigma", "linear", "decreasing", "increasing-decreasing", "constant"])
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_the_sde_has_the_same_ending(diffusion: str, method: str) -> None:
    flow = _flow("linear")
    random = torch.Generator().manual_seed(0)
    settings = {"diffusion": diffusion, "method": method, "diffusion_norm": 0.3}
    sampler = SdeSampler.model_validate({"kind": "sde"} | settings)
    noise = torch.randn(COUNT, 1, generator=random)
    *_, out = sample_sde(
        flow, lambda x, t: _exact_model(flow, x, t), noise, sampler, lambda: torch.randn(COUNT, 1, generator=random)
    )
    assert float(out.std()) == pytest.approx(DATA_DEVIATION, rel=0.06)


def test_the_likelihood_of_a_gaussian_is_exact() -> None:
    flow = _flow("linear")
    data = torch.linspace(-1, 1, 9).view(-1, 1)
    sampler = OdeSampler(kind="ode", method="rk4", points=200)
    log_p, _ = flow.log_likelihood(lambda x, t: _exact_model(flow, x, t), data, sampler, lambda: torch.ones(9, 1))
    exact = -0.5 * (data / DATA_DEVIATION) ** 2 - math.log(DATA_DEVIATION * math.sqrt(2 * math.pi))
    torch.testing.assert_close(log_p, exact[:, 0], atol=2e-3, rtol=0)


def test_ddim_carries_noise_to_the_data() -> None:
    ddpm = Ddpm(DdpmObjective(kind="ddpm", variance="fixed_small"), "ddim250")
    full = Ddpm(DdpmObjective(kind="ddpm"))

    def model(x: Tensor, t_N: Tensor) -> Tensor:
        bar = torch.tensor(full.alphas_cumprod)[t_N].float().view(-1, 1)
        return x * (1 - bar).sqrt() / (bar * DATA_DEVIATION**2 + 1 - bar)

    noise = torch.randn(COUNT, 1, generator=torch.Generator().manual_seed(0))
    sampler = DdimSampler(kind="ddim", respacing="ddim250")
    *_, (out, _) = ddpm.sample_ddim(model, noise, sampler, lambda: torch.zeros_like(noise))
    assert float(out.std() / noise.std()) == pytest.approx(DATA_DEVIATION, rel=0.02)


@pytest.mark.parametrize("respacing", ["", "25"])
def test_the_losses_of_a_diffusion_are_made_of_the_same_terms(respacing: str) -> None:
    random = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(3, 1, 4, 4, generator=random) for _ in range(2))
    index = torch.tensor([0, 3, 20])

    def terms(loss: str) -> dict[str, Tensor]:
        ddpm = Ddpm(DdpmObjective.model_validate({"kind": "ddpm", "loss": loss}), respacing)
        return ddpm.loss_terms(lambda x, _: torch.cat([0.5 * x, torch.tanh(x)], dim=1), data, noise, index)

    steps = 25 if respacing else 1000
    plain, rescaled, bound = terms("mse"), terms("rescaled_mse"), terms("kl")
    torch.testing.assert_close(plain["loss"], plain["mse"] + plain["vb"])
    torch.testing.assert_close(rescaled["loss"], plain["mse"] + plain["vb"] * steps / 1000)
    torch.testing.assert_close(bound["loss"], steps * plain["vb"])


def test_respacing_keeps_both_ends() -> None:
    assert kept_steps("250", 1000)[:3] == [0, 4, 8]
    assert kept_steps("250", 1000)[-1] == 999
    assert kept_steps("", 1000) == list(range(1000))
    assert kept_steps("ddim50", 1000) == list(range(0, 1000, 20))
    assert [len(kept_steps(text, 1000)) for text in ("10,15,20", "2", "1000")] == [45, 2, 1000]


@pytest.mark.parametrize("text", ["0", "1", "1001", "-5", "500,600", "ddim0", "ddim1", "ddim999", "a", "10,", "2.5"])
def test_respacings_that_cannot_be_kept_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        kept_steps(text, 1000)


def test_one_time_axis_for_probes() -> None:
    """t = 0 is noise and t = 1 is data, also where the family counts the other way."""
    data, noise = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    for objective in (_flow("linear"), Ddpm(DdpmObjective(kind="ddpm"))):
        near_noise, near_data = (float(objective.at_time(data, noise, time)[0].mean()) for time in (0.02, 0.98))
        assert near_noise < 0.1
        assert near_data > 0.9


@pytest.mark.parametrize("backbone", ["sit", "dit", "jit", "rae-dit"])
def test_the_times_of_a_fixed_step_sampler_are_known_before(backbone: str, tmp_path: Path) -> None:
    """As the network is then asked, so that no scale of guidance has to wait for a GPU's own time."""
    method = ("sampler.method=heun",) if backbone == "sit" else ()
    config = quick_config(tmp_path, backbone, "none", *method)
    wanted: list[float] = []

    def ask(x: Tensor, t_N: Tensor) -> Tensor:
        wanted.append(float(t_N[0]))
        return torch.ones_like(torch.cat([x, x], dim=1) if backbone == "dit" else x)

    draw_samples(config, ask, torch.ones(2, 3, 4, 4), lambda: torch.ones(2, 3, 4, 4))
    assert len(set(wanted)) > 1
    assert times_asked(config).tolist() == wanted
