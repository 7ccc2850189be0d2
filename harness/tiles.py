"""Apply a network to a fixed number of inputs at a time, so that results do not depend on the batch."""

# N inputs

from collections.abc import Callable

import torch
from torch import Tensor


def in_tiles(network: Callable[..., Tensor], tile: int, *inputs_N: Tensor) -> Tensor:
    """What the network makes of the inputs, (N, ...), `tile` of them at a time, the last ones repeated.

    A matrix product may round differently when its shape differs: on a CPU, in tiles, it is bit for bit the same in
    any batch; where a processor heeds the place in a batch too (seen at attention over nine tokens), in tiles of one.
    """
    count = len(inputs_N[0])
    outputs = []
    for start in range(0, count, tile):
        rows = torch.arange(start, start + tile, device=inputs_N[0].device).clamp(max=count - 1)
        outputs.append(network(*(each[rows] for each in inputs_N))[: count - start])
    return torch.cat(outputs)
