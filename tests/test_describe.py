"""Counts of the published sizes, against the official code's."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dsr.official import layout
from harness.build import build
from harness.describe import describe
from harness.resolve import Request, resolve_network
from harness.spec import FlowObjective, RunConfig
from tests.builders import harness
from tests.conftest import GOLDENS

FACTS = json.loads((GOLDENS[0] / "facts.json").read_text())["configs"]
OURS = {
    "JiT-B/16-256-nocontext": ("pdit-b-16",),
    "RAE:sampling/ImageNet256/DiTDHXL-DINOv2-B": ("rae-dit-dh-xl",),
    "RAE:sampling/ImageNet256/DiTDHXL-DINOv2-B_AG#guidance_model": ("rae-dit-dh-s",),
    "DSR:training/ImageNet256/DiT-XL_SigLIP2-B_data_lognormal": ("rae-dit-xl",),
    "DSR:training/ImageNet256/DiT-XL_SigLIP2-B_tt_reg_data_lognormal-in_context_36": ("rae-dit-xl", "denoiser"),
    "DSR:training/ImageNet256/DiTDH-XL_SigLIP2-B_tt_reg_data_lognormal-in_context_36": ("rae-dit-dh-xl", "denoiser"),
    "extra:LightningDiT-S/1-SigLIP2-B-0reg": ("rae-dit-s",),
    "extra:LightningDiT-S/1-SigLIP2-B-36reg": ("rae-dit-s", "denoiser", "registers.denoiser.start_block=3"),
    "extra:LightningDiT-B/1-SigLIP2-B-0reg": ("rae-dit-b",),
}


def _config(facts: dict[str, Any]) -> RunConfig:
    """`DiT-XL/2-256` is `dit-xl-2`; what has another name is in the table."""
    by_rule = ("-".join(facts["name"].split("-")[:2]).lower().replace("/", "-"),)
    name, *rest = OURS.get(facts["name"], by_rule)
    return resolve_network(Request(name, rest[0] if rest else "none", changes=tuple(rest[1:])))


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: facts["name"])
def test_every_count_is_the_official_one(facts: dict[str, Any]) -> None:
    got = describe(_config(facts))
    assert got["parameters"] == facts["params"]
    assert got["trainable_parameters"] == facts["trainable"]
    assert got["buffers"] == facts["buffers"]
    assert got["state_dict_entries"] == facts["state_dict_entries"]
    assert got["gmacs"] == facts["macs"] / 1e9
    assert got["gflops"] == facts["flops"] / 1e9


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: facts["name"])
def test_names_shapes_and_order_are_the_official_ones(facts: dict[str, Any]) -> None:
    config = _config(facts)
    with torch.device("meta"):
        denoiser = build(config)
        official = layout(config.registers, denoiser)
    state = {**denoiser.state_dict(), **official.derived}
    lines = []
    for key in official.order:
        value = state[official.names.get(key, key)]
        lines.append(f"{key} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}")
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == facts["state_dict_sha256"]


@pytest.mark.parametrize(
    ("name", "without", "with_registers"),
    [("rae-dit-s", 12.4, 13.7), ("rae-dit-b", 46.6, 51.2), ("rae-dit-xl", 238.1, 262.9)],
)
def test_the_papers_operations_with_and_without_registers(name: str, without: float, with_registers: float) -> None:
    assert round(describe(resolve_network(Request(name)))["gflops"], 1) == without
    assert round(describe(resolve_network(Request(name, "dsr")))["gflops"], 1) == with_registers


def test_latents_of_another_width_make_another_network() -> None:
    """So400M's tokens are 1,152 wide; the time shift stays the published one."""
    config = resolve_network(Request("rae-dit-xl", changes=("network.in_channels=1152",)))
    assert describe(config)["input"] == [1152, 16, 16]
    assert isinstance(config.objective, FlowObjective)
    assert config.objective.time_shift == pytest.approx(6.9282, abs=1e-4)


def test_every_published_size_can_be_described(tmp_path: Path) -> None:
    said = harness("describe", "--backbone", "dit-xl-8", "--registers", "dsr", "--json", cwd=tmp_path)
    facts = json.loads(said.out)
    assert facts["tokens"] == 16 + 36
    denoiser = facts["registers"]["denoiser"]
    assert (denoiser["count"], denoiser["start_block"]) == (36, 8)
    assert {"parameters", "trainable_parameters", "tokens", "gflops", "gmacs"} <= set(facts)


def test_a_family_is_described_as_its_task_recommends() -> None:
    assert describe(resolve_network(Request("sit")))["backbone"] == "sit-tiny"
    assert describe(resolve_network(Request("sit-s-2", task="digits")))["input"] == [1, 8, 8]
