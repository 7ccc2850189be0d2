"""Read a golden directory: cases of the official implementations, and models filled by rule."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tests.encoder_goldens import EncoderGolden, read_encoder_cases


@dataclass(frozen=True)
class Golden:
    """One case: inputs, and outputs that ours must match within each one's own tolerance."""

    folder: Path
    facts: Mapping[str, Any]
    models: Mapping[str, Any]

    @property
    def model_facts(self) -> Mapping[str, Any] | None:
        model: Mapping[str, Any] | None = self.models.get(self.facts.get("model", ""))
        return model

    def guide(self) -> "Golden":
        """This case as the weaker network of autoguidance sees it."""
        return replace(self, facts={**self.facts, "model": self.facts["guide_model"]})

    @property
    def id(self) -> str:
        return str(self.facts["id"])

    @property
    def arch(self) -> str:
        return str(self.facts["arch"])

    @property
    def kind(self) -> str:
        return str(self.facts["kind"])

    @property
    def params(self) -> Mapping[str, Any]:
        return self.facts.get("params") or {}

    @cached_property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        with np.load(self.folder / self.facts["file"]) as stored:
            return dict(stored)

    def input(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[f"in__{name}"])

    def check(self, name: str, got: Tensor | npt.NDArray[Any]) -> None:
        """|got - want| <= atol + rtol |want|, element by element; the failure says where and how far."""
        want = self.arrays[name].astype(np.float64)
        tolerance = self.facts["outputs"][name]
        mine = np.asarray(got.detach() if isinstance(got, Tensor) else got).astype(np.float64)
        assert mine.shape == want.shape, f"{self.arch} {self.kind} {self.id} {name}: {mine.shape}, not {want.shape}"
        allowed = tolerance.get("atol", 0.0) + tolerance.get("rtol", 0.0) * np.abs(want)
        excess = np.abs(mine - want) - allowed
        worst = np.unravel_index(np.argmax(excess), excess.shape) if excess.size else ()
        assert (excess <= 0).all(), (
            f"{self.arch} {self.kind} {self.id} {name}: worst at {tuple(map(int, worst))}: "
            f"{mine[worst]} for {want[worst]}, allowed {allowed[worst]}"
        )

    def check_all(self, got: Mapping[str, Tensor | npt.NDArray[Any]]) -> None:
        """Every `out__` of the case, no more and no fewer."""
        expected = {name for name in self.facts["outputs"] if name.startswith("out__")}
        assert set(got) == expected
        for name, value in got.items():
            self.check(name, value)

    def state_dict(self) -> dict[str, Tensor]:
        """The model's weights under their official names, filled by the goldens' rule."""
        assert self.model_facts is not None
        return _filled(self.folder, json.dumps(self.model_facts))


def read_cases(folder: Path) -> Sequence[Golden | EncoderGolden]:
    """The cases of a directory: of the backbones, whose index is an object, or of the encoder stage, a list."""
    index = json.loads((folder / "index.json").read_text())
    if isinstance(index, list):
        return read_encoder_cases(folder, index)
    return [Golden(folder, case, index["models"]) for case in index["cases"]]


@lru_cache(maxsize=4)
def _filled(folder: Path, facts_text: str) -> dict[str, Tensor]:
    facts = json.loads(facts_text)
    small = set(facts.get("small_keys", ()))
    kept: dict[str, npt.NDArray[Any]] = {}
    if facts["kept_keys"]:
        with np.load(folder / facts["kept_file"]) as stored:
            kept = {name.removeprefix("kept__"): stored[name] for name in stored}
    state = {}
    for name, shape, _ in facts["state_dict"]:
        value = kept[name] if name in facts["kept_keys"] else fill(name, tuple(shape), facts["salt"])
        state[name] = torch.from_numpy(value * np.float32(facts["small_factor"]) if name in small else value.copy())
    return state


def fill(name: str, shape: tuple[int, ...], salt: str) -> npt.NDArray[np.float32]:
    """The value of a weight: a function of its official name, its shape and a salt."""
    seed = zlib.crc32((salt + name).encode()) & 0xFFFFFFFF
    normal = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    leaf = name.rsplit(".", 1)[-1]
    if name.endswith("embedding_table.weight"):
        return normal * np.float32(0.5)
    if leaf == "W":
        return normal
    if leaf == "weight" and len(shape) > 1:
        return normal * np.float32(1.0 / np.sqrt(float(np.prod(shape[1:]))))
    if leaf == "weight":
        return np.float32(1.0) + np.float32(0.1) * normal
    if leaf == "bias":
        return normal * np.float32(0.1)
    if leaf.endswith(("register_tokens", "pos_embed")) or leaf in ("in_context_posemb", "k_bias", "v_bias"):
        return normal * np.float32(0.5)
    return normal * np.float32(0.05)
