"""Official files: loaded strictly, told apart, never run."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.build import build, check_weights
from harness.errors import UserError
from harness.resolve import Request, resolve_network
from harness.spec import RunConfig
from harness.weights import read_official
from tests.builders import harness


@pytest.fixture
def config() -> RunConfig:
    return resolve_network(Request("dit"))


@pytest.fixture
def state(config: RunConfig) -> dict[str, Tensor]:
    return build(config).state_dict()


def test_bare_files_and_training_checkpoints_fit(tmp_path: Path, config: RunConfig, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "bare.pt")
    save_file(state, tmp_path / "bare.safetensors")
    training = {"model": {}, "ema": state, "opt": {"step": 1}, "args": argparse.Namespace(lr=1e-4)}
    torch.save(training, tmp_path / "training.pt")
    for name in ("bare.pt", "bare.safetensors", "training.pt"):
        check_weights(config, tmp_path / name)
        assert torch.equal(read_official(tmp_path / name)["pos_embed"], state["pos_embed"])


def test_the_error_lists_what_does_not_fit(tmp_path: Path, config: RunConfig, state: dict[str, Tensor]) -> None:
    state["extra.weight"] = state.pop("pos_embed")
    state["final_layer.linear.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UserError) as error:
        check_weights(config, tmp_path / "other.pt")
    for words in ("1 missing: pos_embed", "1 unexpected: extra.weight", "final_layer.linear.bias (3,) for (8,)"):
        assert words in error.value.problem


def test_official_register_names_are_known(tmp_path: Path) -> None:
    config = resolve_network(Request("sit", registers="dsr"))
    state = build(config).state_dict()
    state["register_tokens"] = state.pop("registers.sets.1.tokens")
    state["register_pos_embed"] = state.pop("registers.sets.1.position")
    torch.save(state, tmp_path / "dsr.pt")
    check_weights(config, tmp_path / "dsr.pt")


def test_describe_says_whether_a_file_fits(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "dit.pt")
    assert "fits" in harness("describe", "--backbone", "dit", "--weights", "dit.pt", cwd=tmp_path).out
    said = harness("describe", "--backbone", "dit", "--registers", "dsr", "--weights", "dit.pt", cwd=tmp_path)
    assert (said.code, "2 missing: registers.sets.1.tokens" in said.err) == (2, True)
    missing = harness("describe", "--backbone", "dit", "--weights", "nowhere.pt", cwd=tmp_path)
    assert (missing.code, "no weights file" in missing.err) == (2, True)
