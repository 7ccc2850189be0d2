"""The network as one process trains it: alone, as a replica of everyone's, or holding a share of the weights."""

import inspect
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.denoiser import Denoiser
from harness.distributed import World
from harness.spec import RunConfig

# What newer versions of torch call it, and older ones.
_SIGNATURE = inspect.signature(DistributedDataParallel)
_SYNC = "forward_sync_buffers" if "forward_sync_buffers" in _SIGNATURE.parameters else "broadcast_buffers"
STILL_BUFFERS: dict[str, Any] = {_SYNC: False}

# Every network's forward pass counts, eval and training, with registers and without: a run has fewer than ten.
MOST_GRAPHS = 64


class Replica:
    """A network that no other process trains.

    `trained` has the parameters, `network` is what is called in training.  Gradients are summed over all processes and
    divided by their number, as torch does.
    """

    def __init__(self, trained: Denoiser, network: nn.Module) -> None:
        self.trained, self.network = trained, network

    def holding_back(self) -> AbstractContextManager[None]:
        """While this is open, gradients gather here and are not told to the others, where that saves time."""
        return nullcontext()

    def local(self, tensor: Tensor) -> Tensor:
        """This process's share of a tensor, which it shares memory with."""
        return tensor

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor; to be called by all processes at once."""
        return tensor

    def gathered(self, tensor: Tensor) -> Tensor:
        """All of a tensor in the first process, in the host's memory where it was shared out; nothing in the others."""
        return tensor

    def shared_like(self, full: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002
        """A tensor that every process has all of, shared out as another one of its shape is."""
        return full

    @torch.no_grad()
    def leave(self, denoiser: Denoiser, averages: Iterable[Tensor]) -> None:
        """Put averages of the parameters, wherever they are, into a denoiser that is whole in every process."""
        for weight, average in zip(denoiser.parameters(), averages, strict=True):
            weight.copy_(self.whole(average))


def replica_of(config: RunConfig, denoiser: Denoiser, world: World) -> Replica:
    """The network as this process trains it; a denoiser whose weights are shared out waits in the host's memory."""
    execution = config.execution
    if world.size == 1:
        return Replica(denoiser, compiled(denoiser) if execution.compiled else denoiser)
    if execution.sharding == "fsdp":
        from harness.sharded import SharedOut  # which takes a second to import

        return SharedOut(denoiser, world, blocks_are_compiled=execution.compiled)
    # Registers that a step leaves out have no gradient in it.  No buffer of ours ever changes.
    drops = config.registers.guidance is not None
    module = compiled(denoiser) if execution.compiled else denoiser
    return _Replicated(denoiser, DistributedDataParallel(module, find_unused_parameters=drops, **STILL_BUFFERS))


def compiled(denoiser: Denoiser) -> nn.Module:
    """The denoiser's whole forward pass through torch.compile, for shapes that do not change; it stays eager itself.

    Called inside DistributedDataParallel, as here, torch cuts its graph where a bucket of gradients ends: each bucket
    is summed while the next is computed.  torch raises an error where it would leave a network eager after too many
    graphs.
    """
    never_fall_back()
    module = torch.compile(denoiser, dynamic=False)
    assert isinstance(module, nn.Module), "a module compiles to a module"
    return module


class _Replicated(Replica):
    """Every process has all weights, and a share of each batch."""

    def holding_back(self) -> AbstractContextManager[None]:
        assert isinstance(self.network, DistributedDataParallel)
        return self.network.no_sync()


def never_fall_back() -> None:
    """From now on torch.compile raises an error where it would go on without compiling, which nobody would notice."""
    torch.compiler.config.recompile_limit = MOST_GRAPHS
    torch.compiler.config.fail_on_recompile_limit_hit = True
