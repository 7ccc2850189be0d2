"""A process group of torch as a world: several processes, on several machines."""

import contextlib
import json
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
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

# How often a process asks how the others are, and how long it has to find out by itself, in seconds.
LISTENS_EVERY = 5.0
TO_NOTICE = 20.0

TROUBLE = "trouble"
OWN_GPU = "start as many processes on a machine as it has GPUs, or use --device cpu"

T = TypeVar("T")


@contextmanager
def entered(execution: Execution) -> Iterator[World]:
    """The group of all processes of a run, while this is open; they leave it together.

    A process that fails says so to the others: what hangs in a sum on a GPU for its sake is ended with its words.
    Raises UserError where nothing says where they meet, not all come, or there is no GPU for each.
    """
    device = _take_device(execution)
    world = _met(execution, device)
    is_whole = False
    try:
        with world.blaming(), world.listening():
            if device.type == "cuda":
                require_own_gpus(world.of_each(_gpu()))
            yield world
            world.wait()
        is_whole = True
    finally:
        # NCCL would wait for sums that never come.  The end of the process ends them, and tells whoever started it.
        if is_whole or device.type != "cuda":
            distributed.destroy_process_group()


def require_own_gpus(gpus: Sequence[str]) -> None:
    """Raise UserError where two processes have the same GPU."""
    for rank, gpu in enumerate(gpus):
        if (other := gpus.index(gpu)) < rank:
            raise UserError(f"processes {other} and {rank} have one GPU between them: {gpu}", OWN_GPU)


@dataclass(frozen=True)
class Together(World):
    """One of several: `control` is for words, which may be long in coming; tensors go the fastest way.

    What went wrong first is kept in the `store`, which `listener` reads beside the work; `last_words` are said before
    this process is ended for it.
    """

    control: distributed.ProcessGroup = field(kw_only=True)
    store: Store = field(kw_only=True)
    listener: Store = field(kw_only=True)
    last_words: list[Callable[[str], None]] = field(kw_only=True, default_factory=list)

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

    def of_each(self, value: T) -> list[T]:
        """Every process's value, anything that can be pickled, in the order of their ranks."""
        told: list[T] = [value] * self.size
        distributed.all_gather_object(told, value, group=self.control)
        return told

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

    @contextmanager
    def parting(self, say: Callable[[str], None]) -> Iterator[None]:
        self.last_words.append(say)
        try:
            yield
        finally:
            self.last_words.remove(say)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """End this process if another one fails, and this one does not notice by itself while this is open.

        As it does not where it waits for a sum on a GPU, which nothing interrupts.
        """
        is_over = threading.Event()
        listener = threading.Thread(target=self._listen, args=(is_over,), name="listener", daemon=True)
        listener.start()
        try:
            yield
        finally:
            is_over.set()
            # The interpreter must not end beneath it: that would be an abort.
            listener.join(TO_NOTICE)

    def _listen(self, is_over: threading.Event) -> None:
        while not is_over.wait(LISTENS_EVERY):
            trouble = self._heard()
            if trouble and not is_over.wait(TO_NOTICE):
                print(f"error: {trouble}", file=sys.stderr, flush=True)
                for say in self.last_words:
                    say(trouble)
                os._exit(1)

    def _heard(self) -> str:
        """What went wrong elsewhere; nothing where all is well."""
        try:
            if not self.listener.check([TROUBLE]):
                return ""
            told = json.loads(self.listener.get(TROUBLE))
        except distributed.DistError:
            return "the first process is gone"
        return "" if told["rank"] == self.rank else f"process {told['rank']}: {told['problem']}"

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


def _met(execution: Execution, device: torch.device) -> Together:
    """The group, as soon as all have come."""
    try:
        store = _store(execution)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=execution.rank,
            world_size=execution.processes,
            timeout=A_STEP,
        )
        control = distributed.new_group(backend="gloo", timeout=PATIENCE)
    except distributed.DistError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"not all of the {execution.processes} processes met at {place}: {str(error).splitlines()[0]}",
            "look into the logs of the others; is the port free, and open between the machines?",
        ) from error
    assert isinstance(control, distributed.ProcessGroup), "a group of all, and this one not in it"
    return Together(execution.rank, execution.processes, control=control, store=store, listener=store.clone())


def _store(execution: Execution) -> Store:
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
        raise UserError(f"this machine has {count} CUDA devices: none for its process {index + 1}", OWN_GPU)
    torch.cuda.set_device(index)
    return device


def _gpu() -> str:
    """The name of this process's GPU, that no other has."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"{properties.name} {properties.uuid} of {platform.node()}"
