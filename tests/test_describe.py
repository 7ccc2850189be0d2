"""Counts of the published sizes, against the official code's."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import registry
from harness.describe import describe
from harness.resolve import Request, resolve_network
from tests.builders import harness
from tests.conftest import GOLDENS

OURS = {"DiT.DiT": "dit", "SiT.SiT": "sit"}
FACTS = [c for c in json.loads((GOLDENS / "facts.json").read_text())["configs"] if c["class"] in OURS]


def _exact_name(facts: dict[str, Any]) -> str:
    scale_and_patch = facts["name"].split("-")[1].lower().replace("/", "-")
    return f"{OURS[facts['class']]}-{scale_and_patch}"


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: facts["name"])
def test_parameters_and_operations_are_the_official_ones(facts: dict[str, Any]) -> None:
    got = describe(resolve_network(Request(_exact_name(facts))))
    assert got["parameters"] == facts["params"]
    assert got["trainable_parameters"] == facts["trainable"]
    assert got["gmacs"] == facts["macs"] / 1e9
    assert got["gflops"] == facts["flops"] / 1e9


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: facts["name"])
def test_names_shapes_and_order_are_the_official_ones(facts: dict[str, Any]) -> None:
    backbone = registry.find(OURS[facts["class"]])
    size = backbone.sizes[_exact_name(facts).split("-", 1)[1]]
    with torch.device("meta"):
        state = backbone.build(size.model_dump()).state_dict()
    lines = [f"{key} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" for key, value in state.items()]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == facts["state_dict_sha256"]


def test_every_published_size_can_be_described(tmp_path: Path) -> None:
    said = harness("describe", "--backbone", "dit-xl-8", "--registers", "dsr", "--json", cwd=tmp_path)
    facts = json.loads(said.out)
    assert facts["tokens"] == 16 + 36
    assert facts["registers"]["denoiser"] == {"count": 36, "start_block": 8}
    assert {"parameters", "trainable_parameters", "tokens", "gflops", "gmacs"} <= set(facts)


def test_a_family_is_described_as_its_task_recommends() -> None:
    assert describe(resolve_network(Request("sit")))["backbone"] == "sit-tiny"
    assert describe(resolve_network(Request("sit-s-2", task="digits")))["input"] == [1, 8, 8]
