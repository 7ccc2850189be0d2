"""The reviewer of every backbone with every register preset: build it tiny, and look.

`pytest tests/test_contract.py --backbones DIR` also reviews the backbone files in another folder.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness import registry
from harness.contract import (
    OF_A_FAMILY,
    OF_A_FILE,
    OF_AN_ARM,
    Promise,
    is_traced_whole,
    presets,
    require_compiled_equals_eager,
)
from harness.records import RunRecord
from harness.run import run
from harness.spec import RunConfig
from tests.builders import quick_config

COMPILED_IN_FULL = {"none", "dsr", "sink-logit"}
OTHERS = [promise for promise in OF_AN_ARM if promise.check is not is_traced_whole]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every family, those of `--backbones` included, with every preset that leaves something here."""
    families = registry.families()
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", families)
    if "pair" in metafunc.fixturenames:
        pairs = [(family, preset) for family in families for preset in presets()]
        metafunc.parametrize("pair", pairs, ids=["-".join(pair) for pair in pairs])


@pytest.fixture
def config(pair: tuple[str, str], tmp_path: Path) -> RunConfig:
    return quick_config(tmp_path, *pair)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("promise", [*OF_A_FILE, *OF_A_FAMILY], ids=lambda promise: promise.name)
def test_a_backbone_keeps(promise: Promise, family: str, tmp_path: Path) -> None:
    promise.check(quick_config(tmp_path, family))


@pytest.mark.parametrize("promise", OTHERS, ids=lambda promise: promise.name)
def test_a_backbone_with_registers_keeps(promise: Promise, config: RunConfig) -> None:
    promise.check(config)


def test_a_record_round_trips(config: RunConfig) -> None:
    """A whole run: trained, sampled, measured, recorded, read again."""
    few = {"steps": 2, "batch_size": 4}
    protocol = config.protocol.model_copy(update={"num_images": 10, "outlier_images": 2})
    small = config.model_copy(update={"recipe": config.recipe.model_copy(update=few), "protocol": protocol})
    outcome = run(small)
    assert RunRecord.model_validate_json(outcome.path.read_bytes()) == outcome.record
    assert outcome.record.run_id == small.run_id == outcome.record.config.run_id
    assert outcome.record.status == "finished"


def test_compiled_equals_eager(config: RunConfig, pair: tuple[str, str]) -> None:
    """Every pair is traced as one graph; some presets of each backbone go through the whole compiler."""
    has_compiler = any(map(shutil.which, ("g++", "clang++")))
    backend = "inductor" if has_compiler and pair[1] in COMPILED_IN_FULL else "aot_eager"
    require_compiled_equals_eager(config, backend)
