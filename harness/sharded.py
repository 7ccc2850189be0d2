"""A network whose weights several processes share (FSDP2)."""

import warnings
from collections.abc import Iterable
from copy import deepcopy

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from harness.denoiser import Denoiser
from harness.distributed import World
from harness.replicas import Replica, never_fall_back


class SharedOut(Replica):
    """Every process has a share of all weights too, and borrows the others' block by block (FSDP2).

    What is trained is a copy: the denoiser itself has all its weights again when the training leaves it the averages.
    Blocks are compiled one by one, because weights come and go between them.  Each piece of a batch gives its gradients
    back at once: held back they would be whole in every process.  Weights travel in float32, whatever the precision:
    in bf16, norms and embeddings too would be rounded, and a network would no longer be the one that DDP trains.
    """

    def __init__(self, denoiser: Denoiser, world: World, *, blocks_are_compiled: bool) -> None:
        # A prediction, which may be a view of the network's last tensor, is never changed in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        self._world = world
        self._device = next(denoiser.parameters()).device
        trained = deepcopy(denoiser.cpu())
        mesh = init_device_mesh(self._device.type, (world.size,))
        never_fall_back()
        for block in _blocks(trained):
            if blocks_are_compiled:
                block.compile(dynamic=False)
            fully_shard(block, mesh=mesh)
        fully_shard(trained, mesh=mesh)
        super().__init__(trained, trained)

    def local(self, tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def gathered(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        full: Tensor = tensor.full_tensor()
        return full.cpu() if self._world.is_first else full.new_empty(0)

    def shared_like(self, full: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor) or full.shape != like.shape:
            return full
        return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)

    def leave(self, denoiser: Denoiser, averages: Iterable[Tensor]) -> None:
        super().leave(denoiser, averages)
        denoiser.to(self._device)


def _blocks(denoiser: Denoiser) -> list[nn.Module]:
    """The layers of a network: the elements of its lists."""
    return [block for layers in denoiser.modules() if isinstance(layers, nn.ModuleList) for block in layers]
