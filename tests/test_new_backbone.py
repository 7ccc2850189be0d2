"""Adding a backbone is one new file in baselines/: this writes one elsewhere, and has it reviewed by name."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

A_NEW_FILE = '''"""A backbone that nobody has seen: one linear embedding, plain blocks, one linear head."""

from harness.backbone import Backbone, Network
from harness.spec import FlowObjective, Guidance, OdeSampler, PixelLatents, Recipe


class TinyNetwork(Network):
    """Its dimensions, which are everybody's."""


def build(network):
    import torch
    from torch import nn

    from baselines._dit import DitBlock
    from baselines._dit_sizes import DitNetwork
    from baselines._layers import FinalLayer, LabelEmbedding, PatchEmbedding, TimestepEmbedding, layer_norm, unpatchify
    from harness.denoiser import Denoiser, Trunk

    class Tiny(Denoiser):
        def __init__(self, network):
            super().__init__()
            self.size = network
            self.trunks = (Trunk(0, network.depth, network.width),)
            self.patch_tokens, self.null_label = network.patch_tokens, network.num_classes
            self.x_embedder = PatchEmbedding(network.in_channels, network.width, network.patch_size)
            self.t_embedder = TimestepEmbedding(network.width)
            self.y_embedder = LabelEmbedding(network.num_classes, network.width, null_class=True)
            design = DitNetwork.model_validate(network.model_dump())
            self.blocks = nn.ModuleList(DitBlock(design) for _ in range(network.depth))
            self.final_layer = FinalLayer(network.width, network.patch_size**2 * network.in_channels, layer_norm)

        def embed_label(self, y):
            return self.y_embedder(y)

        def embed(self, x, t, label):
            return self.x_embedder(x), self.t_embedder(t) + label

        def step(self, index, tokens, condition):
            return self.blocks[index](tokens, condition, torch.nn.Identity())

        def decode(self, tokens, condition):
            return unpatchify(self.final_layer(tokens, condition), self.size.patch_size, self.size.in_channels)

    return Tiny(TinyNetwork(**network))


BACKBONE = Backbone(
    name="newcomer",
    title="Newcomer",
    source="this test",
    sizes={
        "tiny": TinyNetwork(
            input_size=8, in_channels=1, num_classes=10, patch_size=2, width=64, depth=4, num_heads=4
        )
    },
    objective=lambda _: FlowObjective(kind="flow"),
    headline=lambda _: "tiny",
    recipe=lambda _: Recipe(steps=1000),
    sampler=OdeSampler(kind="ode"),
    guidance=lambda _: Guidance(),
    uint8_rule="round",
    build=build,
    latents=PixelLatents(),
)
'''


def _review(folder: Path) -> subprocess.CompletedProcess[str]:
    words = [
        "tests/test_contract.py",
        "--backbones",
        str(folder),
        "-k",
        "newcomer",
        "-n0",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )


def test_one_new_file_is_a_backbone_that_passes_the_contract(tmp_path: Path) -> None:
    (tmp_path / "newcomer.py").write_text(A_NEW_FILE)
    reviewed = _review(tmp_path)
    assert reviewed.returncode == 0, reviewed.stdout[-3000:]
    assert " passed" in reviewed.stdout


def test_the_contract_finds_a_backbone_whose_registers_do_nothing(tmp_path: Path) -> None:
    """A review that cannot fail would be none: these blocks see the patches alone."""
    blind = "patches = self.blocks[index](tokens[:, : self.patch_tokens], condition, torch.nn.Identity())"
    broken = A_NEW_FILE.replace(
        "            return self.blocks[index](tokens, condition, torch.nn.Identity())\n",
        f"            {blind}\n            return torch.cat([patches, tokens[:, self.patch_tokens :]], dim=1)\n",
    )
    assert broken != A_NEW_FILE
    (tmp_path / "newcomer.py").write_text(broken)
    reviewed = _review(tmp_path)
    assert reviewed.returncode == 1
    assert "FAILED tests/test_contract.py::test_what_a_preset_adds_changes_the_output" in reviewed.stdout
