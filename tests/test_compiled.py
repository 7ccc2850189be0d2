"""A compiled network is one graph, made once: registers that enter change nothing about that."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from harness.build import build
from harness.executing import executed
from harness.sample import sample
from tests.builders import quick_config, sampled
from tests.world import trained

torch.set_num_threads(1)


@pytest.fixture
def only_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured as ever, and run by torch itself: no compiler, which would take a minute."""
    torch.compiler.reset()
    counters.clear()
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="eager"))


@pytest.mark.usefixtures("only_captured")
@pytest.mark.parametrize("backbone", ["sit", "jit"])
def test_registers_break_no_graph_and_make_no_other(backbone: str, tmp_path: Path) -> None:
    """One graph for all steps of a training, and one for all batches of a sampling, the last one included."""
    config = quick_config(tmp_path / "eager", backbone, "denoiser", "registers.denoiser.start_block=1")
    compiled = executed(config, compiled=True, runs=str(tmp_path / "compiled"))
    eager, _ = trained(config)
    assert not counters["stats"]
    training, _ = trained(compiled)
    assert counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(training.losses, eager.losses, rtol=1e-6, atol=0)
    denoiser = build(config)
    for indices in (np.arange(64), np.arange(64, 70)):
        images = sample(compiled, sampled(compiled, denoiser), indices, "float32")
        assert counters["stats"]["unique_graphs"] == 2
        np.testing.assert_allclose(images, sample(config, sampled(config, denoiser), indices, "float32"), atol=1e-5)
    assert not counters["graph_break"]
