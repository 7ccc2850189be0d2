"""The operations of registers spent on more training steps: the control that tells compute from tokens (no torch)."""

from dsr import wide_mlp
from harness.backbone import Network
from harness.registers import DenoiserRegisters, LongerTraining


def matching(registers: DenoiserRegisters, network: Network) -> LongerTraining:
    """How many times the steps cost as much as training with these registers, to six tenths of a per cent.

    Registers cost as many operations as MLPs that are wider by some factor; these are a share of the whole.  A training
    step is three forward passes' worth of operations with registers and without, so that the ratio is a forward pass's.
    """
    widened = wide_mlp.matching(registers, network).factor - 1
    return LongerTraining(factor=round(1 + widened * _share_of_mlps(network), wide_mlp.DIGITS))


def _share_of_mlps(network: Network) -> float:
    """Of the blocks' operations.  In multiply-adds, D the width, T the tokens, r the MLP's ratio, a block does
    T (4 + 2 r) D^2 + 2 T^2 D, and 6 D^2 to modulate an image, or each token where these are modulated apart.
    """
    tokens, ratio = network.patch_tokens + network.native_tokens, network.mlp_ratio
    mlps = everything = 0.0
    for shape in network.trunk_shapes:
        mlp = tokens * 2 * ratio * shape.width**2
        modulated = 6 * (tokens if shape.modulated_by_token else 1)
        rest = (4 * tokens + modulated) * shape.width**2 + 2 * tokens**2 * shape.width
        mlps += shape.depth * mlp
        everything += shape.depth * (mlp + rest)
    return mlps / everything
