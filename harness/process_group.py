"""A process group of torch as a world: several processes, on several machines."""

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from harness.distributed import World
from harness.errors import UserError
from harness.machine import find_device
from harness.spec import Execution

MEETING = timedelta(minutes=10)
# All take every step together: whoever is so much later than the others has stopped.
A_STEP = timedelta(minutes=10)
# While the first judges and probes alone, the others wait.
PATIENCE = timedelta(hours=6)

TROUBLE = "trouble"

T = TypeVar("T")


@contextmanager
def entered(execution: Execution) -> Iterator[World]:
    """The group of all processes of a run, while this is open.

    Raises UserError where nothing says where they meet, or there is no GPU for each.
    """
    store = _meet(execution)
    is_cuda = _take_device(execution).type == "cuda"
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if is_cuda else "gloo",
        store=store,
        rank=execution.rank,
        world_size=execution.processes,
        timeout=A_STEP,
    )
    try:
        control = distributed.new_group(backend="gloo", timeout=PATIENCE)
        assert isinstance(control, distributed.ProcessGroup), "a group of all, and this one not in it"
        yield Together(execution.rank, execution.processes, control=control, store=store)
    finally:
        distributed.destroy_process_group()


@dataclass(frozen=True)
class Together(World):
    """One of several: `control` is for words, which may be long in coming; tensors go the fastest way.

    What went wrong first is kept in the `store`.
    """

    control: distributed.ProcessGroup = field(kw_only=True)
    store: Store = field(kw_only=True)

    def agree(self, value: T) -> T:
        told = [value]
        distributed.broadcast_object_list(told, src=0, group=self.control, device=torch.device("cpu"))
        return told[0]

    def any(self, flag: bool) -> bool:  # noqa: FBT001
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX, self.control)
        return bool(flags)

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @contextmanager
    def blaming(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            cause = self._cause(error)
            # What torch raises when another process cannot be reached is a RuntimeError of many kinds.
            if cause is None or not isinstance(error, RuntimeError):
                raise
            raise cause from error

    def _cause(self, error: BaseException) -> Exception | None:
        """What failed before in another process; None where this one is the first that fails, and says so now."""
        about = {"rank": self.rank, "problem": f"{type(error).__name__}: {error}", "remedy": ""}
        if isinstance(error, UserError):
            about |= {"problem": error.problem, "remedy": error.remedy}
        known = json.dumps(about)
        # The store is gone with the process that held it.
        with contextlib.suppress(distributed.DistError):
            known = self.store.compare_set(TROUBLE, "", known).decode()
        told = json.loads(known)
        if told["rank"] == self.rank:
            return None
        problem = f"process {told['rank']}: {told['problem']}"
        return UserError(problem, told["remedy"]) if told["remedy"] else RuntimeError(problem)


def _meet(execution: Execution) -> Store:
    """What the processes share before they are a group."""
    meeting = rendezvous("env://", execution.rank, execution.processes, timeout=MEETING)
    try:
        store, _, _ = next(iter(meeting))
    except ValueError as error:
        raise UserError(
            f"{execution.processes} processes are to work together, and nothing says where they meet: {error}",
            "start them by torchrun or --launcher slurm, which say so to each",
        ) from error
    return PrefixStore("dsr-bench", store)


def _take_device(execution: Execution) -> torch.device:
    """This process's own GPU, from now on the one that "cuda" means."""
    device = find_device(execution.device)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise UserError(f"--device {device} is one GPU for {execution.processes} processes", "use --device cuda")
    # A launcher may show each process its own GPU alone.
    count = torch.cuda.device_count()
    index = execution.local_rank if count > 1 else 0
    if index >= count:
        raise UserError(
            f"this machine has {count} CUDA devices: none for its process {index + 1}",
            "start as many processes as GPUs, or use --device cpu",
        )
    torch.cuda.set_device(index)
    return device
