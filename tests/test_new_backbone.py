"""What `new` writes keeps every promise as it is; and each promise is broken by some backbone, or it were none."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import baselines
from harness import registry
from harness.contract import OF_A_FAMILY, OF_A_FILE, OF_AN_ARM, Promise, file_is_free_of_torch, is_traced_whole
from harness.contributing.check import what_breaks
from harness.contributing.new import write_backbone
from harness.resolve import Request, resolve
from harness.spec import Execution, RunConfig
from tests.builders import quick_changes, quick_config

EVERY = {promise.name: promise for promise in (*OF_A_FILE, *OF_A_FAMILY, *OF_AN_ARM)}
# One for each way of changing a network; `test_contract.py` has them all.
PRESETS = ("none", "denoiser", "class-tokens", "sink-logit", "gate-headwise", "wide-mlp", "clamp")
OF_ONE_FILE = {name: promise for name, promise in EVERY.items() if promise not in OF_A_FILE}

STEP = "        return out_NLD\n"
DECODE = "        return unpatchify(patches, self.network.patch_size, self.network.in_channels)\n"
INIT = "        self.network = network\n"
EMBEDDED = "self.t_embedder(t_N) + label_ND"


def _decoded(returned: str) -> tuple[str, str]:
    return DECODE, DECODE.replace("return", "out =") + f"        return {returned}\n"


# For each promise a change of the file that breaks it, and the preset that shows it.
BROKEN = {
    "none-leaves-no-trace": (INIT, INIT + "        self.mixing_share = nn.Parameter(torch.zeros(1))\n", "none"),
    "building-is-deterministic": (INIT, INIT + "        torch.seed()\n", "none"),
    "fresh-output-is-zero-and-in-shape": (*_decoded("out + 1"), "none"),
    "time-matters": (EMBEDDED, "label_ND", "none"),
    "class-matters": (EMBEDDED, "self.t_embedder(t_N)", "none"),
    "own-weights-stay-as-they-are": (INIT, INIT + "        torch.seed()\n", "denoiser"),
    "additions-change-the-output-and-are-trained": (
        "self.blocks[index](tokens_NLD, condition_ND, self.rotary)",
        "torch.cat([self.blocks[index](tokens_NLD[:, : self.patch_tokens], condition_ND, self.rotary), "
        "tokens_NLD[:, self.patch_tokens :]], dim=1)",
        "denoiser",
    ),
    "without-registers-it-is-the-plain-network": (*_decoded("out + next(COUNT)"), "denoiser"),
    "registers-enter-and-leave": ("self.patch_tokens = network.patch_tokens", "self.patch_tokens = 1", "denoiser"),
    "one-step-lowers-the-loss": (*_decoded("out * 0"), "none"),
    "weights-are-saved-and-loaded-strictly": (*_decoded("out + id(self)"), "none"),
    "an-image-does-not-depend-on-its-batch": (*_decoded("out - out.mean(0)"), "none"),
    "operations-grow-as-computed": ("int(width * network.mlp_ratio)", "width", "denoiser"),
    "is-traced-whole": (*_decoded("out if out.sum().item() < 1 else out + 1"), "none"),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch._dynamo.reset()


def _resolved(file: Path, preset: str) -> RunConfig:
    execution = Execution(threads=1, device="cpu")
    return resolve(Request(str(file), preset, changes=tuple(quick_changes("sit")), execution=execution))


@pytest.mark.parametrize("promise", OF_ONE_FILE.values(), ids=lambda promise: promise.name)
def test_what_new_writes_keeps_the_promise_as_it_is(promise: Promise, tmp_path: Path) -> None:
    (file,) = write_backbone("newcomer", tmp_path / "newcomer.py")
    tried = PRESETS if promise in OF_AN_ARM and promise.check is not is_traced_whole else ("none",)
    assert {preset: what_breaks(promise, _resolved(file, preset)) for preset in tried} == dict.fromkeys(tried)


@pytest.mark.parametrize("name", OF_ONE_FILE)
def test_the_promise_can_be_broken(name: str, tmp_path: Path) -> None:
    """A review that cannot fail would be none."""
    old, new, preset = BROKEN[name]
    (file,) = write_backbone("newcomer", tmp_path / "newcomer.py")
    text = file.read_text()
    assert old in text
    imports = "import itertools\n\nimport torch\n\nCOUNT = itertools.count(1)\n\n"
    file.write_text(text.replace("from collections.abc", f"{imports}from collections.abc", 1).replace(old, new))
    seen = what_breaks(EVERY[name], _resolved(file, preset))
    assert seen
    assert "NameError" not in seen


def test_a_network_that_cannot_bear_registers_is_a_finding_with_its_place(tmp_path: Path) -> None:
    """The most frequent mistake: something inside that is as long as the patches."""
    (file,) = write_backbone("newcomer", tmp_path / "newcomer.py")
    file.write_text(file.read_text().replace(STEP, "        return out_NLD + self.pos_embed\n"))
    seen = what_breaks(EVERY["registers-enter-and-leave"], _resolved(file, "denoiser"))
    assert seen is not None
    assert seen.startswith("RuntimeError in newcomer.py, line ")


def test_a_file_in_baselines_is_found_by_its_name_and_kept_free_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "baselines").mkdir()
    ours = list(baselines.__path__)
    monkeypatch.setattr(baselines, "__path__", [str(tmp_path / "baselines"), *ours])
    written = write_backbone("new-comer", None)
    assert [path.name for path in written] == ["new_comer.py", "_new_comer.py"]
    assert "new-comer" in registry.families()
    try:
        config = quick_config(tmp_path, "new-comer", "denoiser")
        monkeypatch.setattr(registry, "folder", lambda: Path(ours[0]))
        assert what_breaks(EVERY["registers-enter-and-leave"], config) is None
        file_is_free_of_torch(config)
        written[0].write_text(f"import torch\n{written[0].read_text()}")
        assert what_breaks(EVERY["file-is-free-of-torch"], config) == "new_comer.py imports torch"
    finally:
        for name in [name for name in sys.modules if name.endswith("new_comer")]:
            del sys.modules[name]
