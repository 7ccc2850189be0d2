"""How the official constructors and calls are said in our words, for the goldens."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

import dsr
from baselines._dit import build_dit, build_sit
from baselines._jit import build_jit
from baselines._rae import build_headed, build_lightning
from dsr.official import OfficialLayout, layout
from harness.denoiser import Denoiser
from harness.flow import Flow, VpPath
from harness.registers import AttentionVariant, DenoiserRegisters, RegisterConfig
from harness.spec import FlowObjective, OdeSampler, SdeSampler

REVERSED = ("RAE", "DSR")
_OPTIONS = {
    "use_rmsnorm": "rms_norm",
    "use_swiglu": "swiglu",
    "use_rope": "rotary",
    "use_qknorm": "query_key_norm",
}
_SAME = ("input_size", "patch_size", "in_channels", "num_classes", "depth", "num_heads", "mlp_ratio", "learn_sigma")


_DIT = {"input_size": 32, "patch_size": 2, "in_channels": 4, "hidden_size": 1152, "depth": 28, "num_heads": 16}
_RAE = {"input_size": 16, "patch_size": 1, "in_channels": 768, "num_classes": 1000}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "DiT": _DIT | {"num_classes": 1000},
    "SiT": _DIT | {"num_classes": 1000},
    "JiT": {
        "input_size": 256,
        "patch_size": 16,
        "in_channels": 3,
        "hidden_size": 1024,
        "depth": 24,
        "num_heads": 16,
        "num_classes": 1000,
        "bottleneck_dim": 128,
        "in_context_len": 32,
        "in_context_start": 8,
    },
    "LightningDiT": _RAE | {"hidden_size": 1152, "depth": 28, "num_heads": 16},
    "DDT": _RAE | {"hidden_size": [1152, 2048], "depth": [28, 2], "num_heads": [16, 16]},
}
_BUILDERS = {
    "DiT": build_dit,
    "SiT": build_sit,
    "JiT": build_jit,
    "LightningDiT": build_lightning,
    "DDT": build_headed,
}


def network_of(arch: str, constructor: Mapping[str, Any]) -> tuple[Denoiser, OfficialLayout]:
    """A network from the official constructor's arguments, registers attached, and its official layout."""
    given = dict(_DEFAULTS[arch.removesuffix("+registers")]) | dict(constructor)
    given.pop("use_gembed", None)
    has_last_norm = not given.pop("final_no_ln", False)
    registers = _registers(given)
    kind = arch.removesuffix("+registers")
    network = {name: given.pop(name) for name in _SAME if name in given}
    network["width"] = given.pop("hidden_size")
    if kind == "JiT":
        network["bottleneck"] = given.pop("bottleneck_dim")
        network |= {name: given.pop(name) for name in ("in_context_len", "in_context_start")}
        network["dropout"] = given.pop("proj_drop", 0.0)
        given.pop("attn_drop", None)
    else:
        network["null_class"] = given.pop("class_dropout_prob", 0.1) > 0
    if kind in ("LightningDiT", "DDT"):
        network |= {ours: given.pop(theirs) for theirs, ours in _OPTIONS.items() if theirs in given}
        network["shift"] = not given.pop("wo_shift", False)
        assert given.pop("use_pos_embed", True)
    if kind == "DDT":
        network |= {f"head_{name}": value for name, value in _heads(network).items()}
    assert not given, f"constructor arguments that have no translation: {given}"
    denoiser = _BUILDERS[kind](network)
    if not has_last_norm:
        denoiser.final_layer.norm_final = nn.Identity()  # type: ignore[union-attr]
    dsr.attach(registers, denoiser)
    return denoiser, layout(registers, denoiser)


def _registers(given: dict[str, Any]) -> RegisterConfig:
    count, start = given.pop("register_len", 0), given.pop("register_start", 0)
    has_registers, has_bias = given.pop("register_conditioning", False), given.pop("attn_with_bias", False)
    return RegisterConfig(
        denoiser=DenoiserRegisters(count=count, start_block=start) if has_registers and count else None,
        attention=AttentionVariant(kind="kv-bias") if has_bias else None,
    )


def _heads(network: dict[str, Any]) -> dict[str, Any]:
    """Take the head's numbers out of the lists of two."""
    heads = {}
    for name in ("width", "depth", "num_heads"):
        both = network[name] if isinstance(network[name], list) else [network[name]] * 2
        network[name], heads[name] = both
    return heads


def is_reversed(params: Mapping[str, Any]) -> bool:
    """Whether time runs from data to noise, as RAE and DSR count it."""
    return params.get("repo") in REVERSED


def flow_of(
    params: Mapping[str, Any], create: Mapping[str, Any], prediction: str | None = None, weight: str = "none"
) -> Flow:
    """The transport that `create_transport` makes."""
    kind, *numbers = create.get("time_dist_type", "uniform").split("_")
    mean, std = map(float, numbers or (0, 1))
    sign = -1 if is_reversed(params) else 1
    objective = {
        "kind": "flow",
        "path": create.get("path_type", "Linear").lower(),
        "prediction": prediction or create.get("prediction", "velocity"),
        "loss_weight": create.get("loss_weight") or weight,
        "training_epsilon": create.get("train_eps") or None,
        "sampling_epsilon": create.get("sample_eps") or None,
        "clip_prediction": create.get("clamp_pred") or params.get("sample", {}).get("clamp_pred"),
        "time_distribution": kind,
        "time_mean": sign * mean,
        "time_std": std,
        "time_shift": create.get("time_dist_shift", 1.0),
        "toward_noise": is_reversed(params),
    }
    flow = Flow(FlowObjective.model_validate(objective))
    if flow.is_vp and is_reversed(params):
        flow.path = _SwappedVp()
    return flow


class _SwappedVp:
    """RAE's and DSR's VP path: SiT's alpha and sigma swapped at the same t, drifts as they were; no model uses it."""

    _vp = VpPath()

    def alpha(self, t: Tensor) -> Tensor:
        return self._vp.sigma(1 - t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._vp.alpha(1 - t)

    def d_alpha(self, t: Tensor) -> Tensor:
        return -self._vp.d_sigma(1 - t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -self._vp.d_alpha(1 - t)

    def log_slope(self, t: Tensor) -> Tensor:
        return self.d_alpha(t) / self.alpha(t)

    def drift(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = self._vp.drift(x, 1 - t)
        return -mean, -variance


def ode_sampler(sample: Mapping[str, Any]) -> OdeSampler:
    """The solver that `sample_ode` makes."""
    method = sample.get("sampling_method", "dopri5")
    return OdeSampler(
        kind="ode",
        method="heun" if method == "heun2" else method,
        points=sample["num_steps"],
        absolute_tolerance=sample.get("atol", 1e-6),
        relative_tolerance=sample.get("rtol", 1e-3),
    )


def sde_sampler(sample: Mapping[str, Any]) -> SdeSampler:
    """The solver that `sample_sde` makes."""
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
