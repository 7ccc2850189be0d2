"""Test-time registers: tokens appended to an encoder's sequence, which take over what register neurons do to patches.

Sources: Vision Transformers Don't Need Trained Registers (arXiv 2506.08010), and DSR (arXiv 2605.05206), whose batched
rule is the one here.
"""

# N batch, L tokens, D width, F width of the MLP, K register neurons of a layer, R registers

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dsr.neurons import check
from harness.encoder import Encoder, ExtraTokens, NoExtraTokens
from harness.registers import AddedRegisters

LOWER_SHARE = 0.75

Hook = Callable[[Any, tuple[Tensor]], tuple[Tensor]]


@dataclass(frozen=True)
class Rule:
    """How `count` registers at the end of a sequence take over; tokens before `first` are no patches."""

    count: int
    first: int
    value: str = "layer"
    patches: str = "zero"
    scale: float | Sequence[float] = 1.0


class AppendedZeros(ExtraTokens):
    """R zero tokens without a position, and the hooks that move register neurons into them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []

    def enter(self, tokens_NLD: Tensor) -> Tensor:
        zeros = tokens_NLD.new_zeros(len(tokens_NLD), self.count, tokens_NLD.shape[2])
        return torch.cat([tokens_NLD, zeros], dim=1)


def attach(registers: AddedRegisters, encoder: Encoder) -> None:
    """Give an encoder test-time registers, in place of those that it may have: once, for all passes after.

    Attention stays the encoder's own.  Raises UserError for neurons that it has not.
    """
    check(registers, encoder.definition)
    detach(encoder)
    extra = AppendedZeros(registers.count)
    for layer, neurons in registers.neurons.items():
        extra.hooks.append(redirect(encoder, layer, neurons, rule_of(registers, encoder)))
    encoder.extra = extra


def detach(encoder: Encoder) -> None:
    """Take test-time registers out again: the encoder is as it was."""
    if isinstance(encoder.extra, AppendedZeros):
        for hook in encoder.extra.hooks:
            hook.remove()
    encoder.extra = NoExtraTokens()


def redirect(encoder: Encoder, layer: int, neurons: Sequence[int], rule: Rule) -> torch.utils.hooks.RemovableHandle:
    """Move some neurons of one layer into the last tokens of whatever sequence passes, until the handle is removed."""
    point = encoder.activation_point(layer)
    indices_K = torch.tensor(sorted(set(neurons)), device=next(encoder.parameters()).device)
    return point.register_forward_pre_hook(partial(_enter_point, indices_K, rule))


def rule_of(registers: AddedRegisters, encoder: Encoder) -> Rule:
    """The rule of a configuration on an encoder, whose class token and trained registers are no patches."""
    spared = int(registers.first_patch == "kept" and encoder.num_prefix_tokens == 0)
    first = encoder.num_prefix_tokens + spared
    return Rule(registers.count, first, registers.value, registers.patches, registers.scale)


def redirected(activation_NLF: Tensor, neurons_K: Tensor, rule: Rule) -> Tensor:
    """An MLP's activation, (N, L, F), with these neurons moved into the last `rule.count` tokens; a new tensor.

    The maximum runs over all tokens, registers and class token included, and a tie of both signs is negative.
    """
    assert rule.count > 0, "no register to move a neuron into"
    chosen_NLK = activation_NLF[:, :, neurons_K]
    end = chosen_NLK.shape[1] - rule.count
    patches_NLK = chosen_NLK[:, rule.first : end]
    scale_R1 = torch.as_tensor(rule.scale, dtype=chosen_NLK.dtype, device=chosen_NLK.device).reshape(-1, 1)
    registers_NRK = (scale_R1 * largest(chosen_NLK, rule.value)).expand(-1, rule.count, neurons_K.numel())
    moved_NLK = torch.cat([chosen_NLK[:, : rule.first], _PATCHES[rule.patches](patches_NLK), registers_NRK], dim=1)
    return activation_NLF.index_copy(2, neurons_K, moved_NLK)


def largest(chosen_NLK: Tensor, value: str) -> Tensor:
    """The activation that registers take, (N, 1, 1) or (N, 1, K) as `AddedRegisters.value` says."""
    dims = (1, 2) if value == "layer" else (1,)
    high = chosen_NLK.amax(dims, keepdim=True)
    if value == "neuron-plain":
        return high
    low = chosen_NLK.amin(dims, keepdim=True)
    return torch.where(high.abs() > low.abs(), high, low)


def _enter_point(indices_K: Tensor, rule: Rule, module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    del module
    return (redirected(inputs[0], indices_K, rule),)


def _outliers_to_mean(patches_NLK: Tensor) -> Tensor:
    mean, std = patches_NLK.mean(dim=1, keepdim=True), patches_NLK.std(dim=1, keepdim=True)
    return torch.where(patches_NLK > mean + std, mean, patches_NLK)


def _lower_mean(patches_NLK: Tensor) -> Tensor:
    lowest = int(LOWER_SHARE * patches_NLK.shape[1])
    return patches_NLK.sort(dim=1).values[:, :lowest].mean(dim=1, keepdim=True).expand_as(patches_NLK)


_PATCHES: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": torch.zeros_like,
    "mean": lambda patches_NLK: patches_NLK.mean(dim=1, keepdim=True).expand_as(patches_NLK),
    "trimmed-mean": _lower_mean,
    "only-outliers": _outliers_to_mean,
    "same": lambda patches_NLK: patches_NLK,
}
