"""Make the next steps' numbers ready while the device computes."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

AHEAD = 2

T = TypeVar("T")


@contextmanager
def ahead(make: Callable[[int], T], steps: range, depth: int) -> Iterator[Iterator[T]]:
    """What `make` gives for each step, in their order, up to `depth` of them made before they are asked for.

    At a depth of 0 nothing runs beside the loop.  Else a thread makes them, and ends with the block; an error in it is
    raised in the loop, at the step that it was made for.
    """
    if depth == 0:
        yield map(make, steps)
        return
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    try:
        yield _in_order(pool, make, steps, depth)
    finally:
        pool.shutdown(cancel_futures=True)


class Link:
    """The way from the host's memory to the device.  This one is for a device that computes in the host's memory."""

    depth = 0

    def send(self, tensor: Tensor) -> Tensor:
        """Start the copy of a tensor; to be called by whoever makes it."""
        return tensor

    def receive(self, tensor: Tensor) -> Tensor:
        """The sent tensor, as the device's own computations may use it from now on."""
        return tensor


class CudaLink(Link):
    """Copies from pinned memory on a stream of their own, beside the computations of the last step."""

    depth = AHEAD

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, tensor: Tensor) -> Tensor:
        with torch.cuda.stream(self._stream):
            return tensor.pin_memory().to(self._device, non_blocking=True)

    def receive(self, tensor: Tensor) -> Tensor:
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        # Or its memory might be given to the next copy while this step still reads it.
        tensor.record_stream(current)
        return tensor


def link_to(device: torch.device) -> Link:
    """How tensors get to a device."""
    return CudaLink(device) if device.type == "cuda" else Link()


def _in_order(pool: ThreadPoolExecutor, make: Callable[[int], T], steps: range, depth: int) -> Iterator[T]:
    made = deque(pool.submit(make, step) for step in steps[:depth])
    for later in steps[depth:]:
        step = made.popleft()
        made.append(pool.submit(make, later))
        yield step.result()
    for step in made:
        yield step.result()
