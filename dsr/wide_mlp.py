"""The operations of registers spent on wider MLPs: the control that tells capacity from registers (no torch)."""

from harness.backbone import Network
from harness.registers import DenoiserRegisters, WiderMlp

DIGITS = 6


def matching(registers: DenoiserRegisters, network: Network) -> WiderMlp:
    """How much wider MLPs cost as much as these registers, to six tenths of a per cent of the whole network.

    In multiply-adds of matrix products, D the width, T the tokens, K the registers, r the MLP's ratio: a block with
    registers does K (4 + 2 r) D^2 + 2 D ((T + K)^2 - T^2) more, and 6 K D^2 where each token is modulated apart; a
    block with MLPs f times as wide does T 2 r D^2 (f - 1) more.
    """
    tokens, count, ratio = network.patch_tokens + network.native_tokens, registers.count, network.mlp_ratio
    attended = (tokens + count) ** 2 - tokens**2
    spent = available = 0.0
    for index, shape in enumerate(network.trunk_shapes):
        blocks = shape.depth if index else shape.depth - registers.start_block
        linear = (4 + 2 * ratio + 6 * shape.modulated_by_token) * shape.width**2
        spent += blocks * (count * linear + 2 * shape.width * attended)
        available += shape.depth * tokens * 2 * ratio * shape.width**2
    return WiderMlp(factor=round(1 + spent / available, DIGITS))
