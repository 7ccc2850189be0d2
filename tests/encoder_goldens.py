"""Read goldens of the encoder stage: cases of the official code, and towers filled by rule."""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.encoder import Encoder, FinalNorm
from harness.encoder_weights import encoder_of
from harness.encoders import HALF, EncoderDefinition
from harness.positions import sin_cos_2d

Numbers = npt.NDArray[Any]

_MAE_TABLE = "vit.embeddings.position_embeddings"


@dataclass(frozen=True)
class EncoderGolden:
    """One case: arguments under their official names, arrays, and what is expected."""

    folder: Path
    facts: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.facts["id"])

    @property
    def group(self) -> str:
        return str(self.facts["group"])

    @property
    def args(self) -> Mapping[str, Any]:
        arguments: Mapping[str, Any] = self.facts["args"]
        return arguments

    @property
    def expected(self) -> Any:
        return self.facts.get("expected")

    @cached_property
    def arrays(self) -> Mapping[str, Numbers]:
        with np.load(self.folder / self.facts["file"]) as stored:
            return dict(stored)

    def input(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[f"in.{name}"])

    def has_input(self, name: str) -> bool:
        return f"in.{name}" in self.arrays

    def outputs(self, start: str = "") -> list[str]:
        """The names of the expected arrays that begin so, without "out."."""
        names = [name.removeprefix("out.") for name in self.arrays if name.startswith("out.")]
        return [name for name in names if name.startswith(start)]

    def check(self, name: str, got: Tensor | Numbers | float) -> None:
        """|got - want| <= atol + rtol |want|, element by element; the failure says where and how far."""
        self.compare(name, got, self.arrays[f"out.{name}"])

    def check_all(self, got: Mapping[str, Tensor | Numbers]) -> None:
        """Every output of the case, no more and no fewer."""
        assert set(got) == set(self.outputs()), f"{self.id}: {set(got) ^ set(self.outputs())}"
        for name, value in got.items():
            self.check(name, value)

    def compare(self, name: str, got: Tensor | Numbers | float, wanted: Numbers | float) -> None:
        want = np.asarray(wanted).astype(np.float64)
        mine = np.asarray(got.detach() if isinstance(got, Tensor) else got).astype(np.float64)
        assert mine.shape == want.shape, f"{self.group} {self.id} {name}: {mine.shape}, not {want.shape}"
        tolerance = self.facts["tol"]
        allowed = tolerance["atol"] + tolerance["rtol"] * np.abs(want)
        excess = np.abs(mine - want) - allowed
        worst = np.unravel_index(np.argmax(excess), excess.shape) if excess.size else ()
        assert (excess <= 0).all(), (
            f"{self.group} {self.id} {name}: worst at {tuple(map(int, worst))}: {mine[worst]} for {want[worst]}, "
            f"allowed {allowed[worst]}"
        )

    def filled(self, part: str | None = None) -> dict[str, Tensor]:
        """The weights of a case, or of its encoder or decoder, under their official names.

        Those that are "not_filled" are left out.
        """
        rule, listed = self.facts["fill"], self.facts["params"]
        listed, wanted = (listed[part], rule["sha256"][part]) if part else (listed, rule["sha256"])
        state: dict[str, npt.NDArray[np.float32]] = {}
        for name, shape, *marks in listed:
            if not marks:
                state[name] = _overridden(name, fill(name, tuple(shape), rule["salt"], rule["gain"]), rule["overrides"])
        assert _digest(state) == wanted, f"{self.id}: weights are filled by another rule"
        return {name: torch.from_numpy(value) for name, value in state.items()}

    def tower(self) -> Encoder:
        """The SigLIP tower of a case, at its input's size."""
        side = self.args.get("input_size", self.args["siglip_config"]["image"])
        return encoder_of(_siglip(self.args["siglip_config"], side), self.filled())

    def encoder(self) -> Encoder:
        """The encoder of an RAE case."""
        definition, state = self._rae_definition(), self.filled("encoder")
        if definition.family == "mae":
            grid, width = definition.table, definition.width
            table = np.concatenate([np.zeros((1, width), np.float32), sin_cos_2d(grid, grid, width)])
            state[_MAE_TABLE] = torch.from_numpy(table)[None]
        chosen = self.args["encoder_params"]
        final_norm: FinalNorm = "plain" if chosen.get("normalize", True) else "affine"
        return encoder_of(definition, state, final_norm=final_norm, output_layer=chosen.get("layer_index", -1))

    def _rae_definition(self) -> EncoderDefinition:
        kind, config, side = self.args["encoder_cls"], self.args["encoder_config"], self.args["encoder_input_size"]
        look: dict[str, Any] = {"mean": tuple(self.args["image_mean"]), "std": tuple(self.args["image_std"])}
        if kind.startswith("SigLIP2"):
            return _siglip(config, side).model_copy(update=look)
        width = config["hidden_size"]
        return EncoderDefinition(
            name=kind,
            family=_FAMILIES[kind],
            image_size=side,
            patch=config["patch_size"],
            width=width,
            depth=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            hidden=config.get("intermediate_size") or int(width * config["mlp_ratio"]),
            table=config["image_size"] // config["patch_size"],
            epsilon=config["layer_norm_eps"],
            activation=config.get("hidden_act", "gelu"),
            gated=config.get("use_gated_mlp", False),
            registers=config.get("num_register_tokens", 0),
            antialias=kind == "Dinov2withNorm",
            **look,
        )


_FAMILIES: Mapping[str, Any] = {
    "Dinov2withNorm": "dinov2",
    "Dinov2withNormNoReg": "dinov2",
    "Dinov3withNorm": "dinov3",
    "MAEwNorm": "mae",
}


def read_encoder_cases(folder: Path, index: list[Mapping[str, Any]]) -> list[EncoderGolden]:
    return [EncoderGolden(folder, case) for case in index]


def fill(name: str, shape: tuple[int, ...], salt: str, gain: float) -> npt.NDArray[np.float32]:
    """The value of a weight: a function of its official name, its shape and a salt."""
    seed = zlib.crc32((salt + name).encode()) & 0xFFFFFFFF
    value = np.random.RandomState(seed).standard_normal(shape).astype(np.float32) * np.float32(0.05)
    *_, module, leaf = ["", *name.split(".")]
    if leaf == "weight" and "norm" in module.lower():
        return np.float32(1) + value
    return value * np.float32(gain) if len(shape) > 1 else value


def _digest(state: Mapping[str, npt.NDArray[np.float32]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + np.ascontiguousarray(state[name], "<f4").tobytes())
    return digest.hexdigest()


def _overridden(
    name: str, value: npt.NDArray[np.float32], overrides: list[Mapping[str, Any]]
) -> npt.NDArray[np.float32]:
    for change in overrides:
        if change["param"] == name:
            places, number = change["idx"], np.float32(change["value"])
            match change["op"]:
                case "scale_rows":
                    value[places] *= number
                case "scale_cols":
                    value[:, places] *= number
                case "add":
                    value[places] += number
                case "set":
                    value[places] = number
    return value


def _siglip(config: Mapping[str, Any], side: int) -> EncoderDefinition:
    return EncoderDefinition(
        name="SigLIP",
        family="siglip",
        image_size=side,
        patch=config["patch"],
        width=config["hidden"],
        depth=config["layers"],
        heads=config["heads"],
        hidden=config["inter"],
        table=config["image"] // config["patch"],
        activation="gelu-tanh",
        class_token=False,
        mean=HALF,
        std=HALF,
    )
