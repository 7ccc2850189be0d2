"""Make the next steps' numbers ready while the device computes."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

# A thread draws this many random numbers in about a tenth of a second, and keeps 32 MiB for them.
NUMBERS_OF_A_THREAD = 2**23
FEWEST, MOST = 2, 8

T = TypeVar("T")


class Link:
    """The way from the host's memory to the device.  This one is for a device that computes in the host's memory.

    `depth` steps are made ahead; with 0 nothing runs beside the loop.
    """

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth

    def enter(self) -> None:
        """To be called once in each thread that sends."""

    def send(self, tensor: Tensor) -> Tensor:
        """Start the copy of a tensor; to be called by whoever makes it."""
        return tensor

    def receive(self, tensor: Tensor) -> Tensor:
        """The sent tensor, as the device's own computations may use it from now on."""
        return tensor


class CudaLink(Link):
    """Copies from pinned memory on a stream of their own, beside the computations of the last step."""

    def __init__(self, device: torch.device, depth: int) -> None:
        super().__init__(depth)
        self._device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def enter(self) -> None:
        # Each thread begins with the first GPU, where pinning would take memory beside another process.
        torch.cuda.set_device(self._device)

    def send(self, tensor: Tensor) -> Tensor:
        with torch.cuda.stream(self._stream):
            return tensor.pin_memory().to(self._device, non_blocking=True)

    def receive(self, tensor: Tensor) -> Tensor:
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        # Or its memory might be given to the next copy while this step still reads it.
        tensor.record_stream(current)
        return tensor


def link_to(device: torch.device, numbers: int) -> Link:
    """How tensors get to a device, and how many steps of so many random numbers each are made ahead for it.

    A GPU may take less time for a step than one thread takes to draw a large one: then several are drawn at once.
    """
    if device.type != "cuda":
        return Link()
    return CudaLink(device, min(max(-(-numbers // NUMBERS_OF_A_THREAD), FEWEST), MOST))


@contextmanager
def ahead(make: Callable[[int], T], steps: range, link: Link) -> Iterator[Iterator[T]]:
    """What `make` gives for each step, in their order, as many made ahead as the link says, all of them at once.

    Threads make them, in any order, and end with the block; an error in one is raised in the loop, at the step that it
    was made for.
    """
    if link.depth == 0:
        yield map(make, steps)
        return
    pool = ThreadPoolExecutor(link.depth, thread_name_prefix="prefetch", initializer=link.enter)
    try:
        yield _in_order(pool, make, steps, link.depth)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ThreadPoolExecutor, make: Callable[[int], T], steps: range, depth: int) -> Iterator[T]:
    made = deque(pool.submit(make, step) for step in steps[:depth])
    for later in steps[depth:]:
        step = made.popleft()
        made.append(pool.submit(make, later))
        yield step.result()
    for step in made:
        yield step.result()
