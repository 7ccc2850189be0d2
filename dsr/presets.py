"""The named register configurations: what each is, where it comes from, what it means on a network (no torch).

A new idea is one entry here and, where it computes something new, one file beside this one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dsr import longer, wide_mlp
from harness.backbone import Network
from harness.registers import AttentionVariant, DenoiserRegisters, LossMask, NormClamp, RegisterGuidance

# The paper's setting: 36 registers from block 8 of 28, beside 256 patches.
PAPER_COUNT, PAPER_START, PAPER_DEPTH, PAPER_PATCHES = 36, 8, 28, 256
JIT_COUNT, JIT_STD = 32, 0.02
SHALLOWEST_PUBLISHED = 12
FEWEST = 4

# Published without these two numbers; ours.
DROP_PROBABILITY, REGISTER_SCALE = 0.1, 1.5
MASKED_ABOVE, CLAMPED_ABOVE = 2.0, 3.0

# DSR's --outlier_token_norm.
PAPER_TAU = 100.0

Stage = Literal["encoder", "denoiser"]
Fields = dict[str, Any]


@dataclass(frozen=True)
class Preset:
    """A named register configuration: one line for `list registers`, its source, and the fields that it sets.

    `stages` are the stages of Dual-Stage Registers that it wants, `rounds` how often register neurons must have been
    searched for, each time with those found before in place.  `needs_encoder` says that it speaks of the tokens of a
    representation encoder, and would change nothing without one.
    """

    title: str
    source: str
    fields: Callable[[Network], Fields]
    stages: tuple[Stage, ...] = ()
    rounds: int = 1
    needs_encoder: bool = False


def _nothing(_: Network) -> Fields:
    return {}


def _paper(network: Network) -> DenoiserRegisters:
    """36 at block 8 of 28, or at the first third of another depth (4 of 12, as the paper's GFLOPs of S and B show).

    A network shallower than any published one gets the paper's share of tokens, 36 to 256, as a square number.
    """
    start = PAPER_START if network.depth == PAPER_DEPTH else network.depth // 3
    if network.depth >= SHALLOWEST_PUBLISHED:
        return DenoiserRegisters(count=PAPER_COUNT, start_block=start)
    share = math.isqrt(network.patch_tokens * PAPER_COUNT // PAPER_PATCHES) ** 2
    return DenoiserRegisters(count=min(max(share, FEWEST), PAPER_COUNT), start_block=start)


def _class_tokens(network: Network) -> DenoiserRegisters:
    """32 at the first third, as JiT has them; JiT's share of tokens in a network shallower than any published one."""
    share = max(network.patch_tokens * JIT_COUNT // PAPER_PATCHES, FEWEST)
    return DenoiserRegisters(
        count=JIT_COUNT if network.depth >= SHALLOWEST_PUBLISHED else min(share, JIT_COUNT),
        start_block=network.depth // 3,
        content="class",
        position="learned",
        init_std=JIT_STD,
    )


def _zeros(network: Network) -> DenoiserRegisters:
    """As many, as deep, and nothing in them."""
    return _paper(network).model_copy(update={"content": "zero", "position": "none"})


def _attention(kind: Literal["kv-bias", "sink-logit", "softmax-one", "gate-headwise", "gate-elementwise"]) -> Fields:
    return {"attention": AttentionVariant(kind=kind)}


PRESETS: Mapping[str, Preset] = {
    "none": Preset("no registers: the arm that every other one is compared with", "", _nothing),
    "encoder": Preset(
        "registers in the encoder alone: trained ones where they exist, else test-time",
        "arXiv 2605.05206",
        _nothing,
        ("encoder",),
    ),
    "encoder-recursive": Preset(
        "test-time registers by neurons that were searched for again with the first ones in place",
        "arXiv 2605.05206",
        _nothing,
        ("encoder",),
        rounds=2,
    ),
    "denoiser": Preset(
        "diffusion registers alone: learned tokens in the later blocks of the denoiser",
        "arXiv 2605.05206",
        lambda network: {"denoiser": _paper(network)},
        ("denoiser",),
    ),
    "dsr": Preset(
        "Dual-Stage Registers: both stages, wherever the backbone has them",
        "arXiv 2605.05206",
        lambda network: {"denoiser": _paper(network)},
        ("encoder", "denoiser"),
    ),
    "plain": Preset(
        "4 learned tokens without positions, through all blocks",
        "ArchiMickey/Just-a-DiT",
        lambda _: {"denoiser": DenoiserRegisters(count=FEWEST, start_block=0, position="none")},
    ),
    "class-tokens": Preset(
        "class-conditioned registers: JiT's in-context tokens, on any backbone",
        "arXiv 2511.13720",
        lambda network: {"denoiser": _class_tokens(network)},
    ),
    "register-guidance": Preset(
        "diffusion registers, dropped in some training steps; sampling extrapolates from without to with them",
        "quickjkee/register-guidance; its drop probability and scale are unpublished: 0.1 and 1.5 are ours",
        lambda network: {
            "denoiser": _paper(network),
            "guidance": RegisterGuidance(drop_probability=DROP_PROBABILITY, scale=REGISTER_SCALE),
        },
    ),
    "kv-bias": Preset(
        "no tokens: one learned key and value in every attention head",
        "arXiv 2402.17762",
        lambda _: _attention("kv-bias"),
    ),
    "sink-logit": Preset(
        "no tokens: a learned logit in every attention head that takes weight and gives nothing",
        "gpt-oss, arXiv 2508.10925",
        lambda _: _attention("sink-logit"),
    ),
    "softmax-one": Preset(
        "no tokens: softmax off by one, a sink logit fixed at 0",
        "Miller, Attention Is Off By One, 2023",
        lambda _: _attention("softmax-one"),
    ),
    "gate-headwise": Preset(
        "no tokens: one sigmoid gate on the output of every attention head",
        "arXiv 2505.06708",
        lambda _: _attention("gate-headwise"),
    ),
    "gate-elementwise": Preset(
        "no tokens: a sigmoid gate on every channel of the attention output",
        "arXiv 2505.06708",
        lambda _: _attention("gate-elementwise"),
    ),
    "wide-mlp": Preset(
        "no tokens: MLPs widened until they cost what the paper's registers cost",
        "control",
        lambda network: {"wider_mlp": wide_mlp.matching(_paper(network), network)},
    ),
    "longer": Preset(
        "no tokens: more training steps, until they cost what the paper's registers cost",
        "control",
        lambda network: {"longer_training": longer.matching(_paper(network), network)},
    ),
    "zero-registers": Preset(
        "the tokens of `denoiser` without content: fixed zeros without positions",
        "control, after sorryhyun/anima_lora, whose content-free registers did harm",
        lambda network: {"denoiser": _zeros(network)},
    ),
    "clamp": Preset(
        "no tokens: trained as `none`; sampling clamps patches of more than three times the median norm",
        "control: arXiv 2605.05206 clamps norms; the threshold is ours",
        lambda _: {"clamp": NormClamp(above=CLAMPED_ABOVE)},
    ),
    "loss-mask": Preset(
        "no tokens: patches of more than twice the median norm are left out of the training loss",
        "arXiv 2605.05206, appendix; the threshold is ours",
        lambda _: {"loss_mask": LossMask(above=MASKED_ABOVE)},
    ),
    "loss-mask-paper": Preset(
        "no tokens: latents whose norm is above 100 are left out of the training loss",
        "arXiv 2605.05206, table 1: tau = 100",
        lambda _: {"loss_mask": LossMask(above=PAPER_TAU, unit="absolute")},
        needs_encoder=True,
    ),
}
