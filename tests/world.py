"""Real processes that work together on this machine, for tests."""

import os
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing, nn

from harness import process_group
from harness.build import build
from harness.checkpoint import Checkpoints
from harness.data import digits
from harness.denoiser import Denoiser
from harness.distributed import ALONE, World, joined
from harness.executing import executed
from harness.latents import plain_codec
from harness.source import Source
from harness.spec import RaeLatents, RunConfig
from harness.train import Training, train
from tests.nursery import NURSERY

# What every process does: returns something that can be pickled.
Work = Callable[[RunConfig, World], Any]


def together(work: Work, configs: Sequence[RunConfig], place: Path, processes: int = 2) -> list[Any]:
    """What the first of so many processes returns of the work on each configuration, one world after the other.

    Every process's last words, where it failed, are in `place`, a file `failed-<rank>` for each.
    """
    place.mkdir(parents=True, exist_ok=True)
    port = free_port()
    start = partial(multiprocessing.start_processes, start_method=NURSERY.get_start_method())  # type: ignore[attr-defined]
    start(_work, args=(work, list(configs), place, (processes, port)), nprocs=processes)
    found: list[Any] = torch.load(place / "found.pt", weights_only=False)
    return found


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def trained(config: RunConfig, world: World = ALONE) -> tuple[Training, Denoiser]:
    """A training in the run's own folder, and the network with its EMA weights."""
    assert not isinstance(config.latents, RaeLatents), "no encoder in quick tests"
    denoiser = build(config)
    source = Source(digits(), plain_codec(config.latents, config.task, torch.device("cpu")))
    folder = Path(config.execution.runs) / config.run_id / "checkpoints"
    training = train(config, denoiser, source, Checkpoints(folder, "here"), "float32", world=world)
    return training, denoiser


def has_dropout(denoiser: Denoiser) -> bool:
    """Whether it draws numbers of its own in training."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in denoiser.modules())


def _work(rank: int, work: Work, configs: list[RunConfig], place: Path, meeting: tuple[int, int]) -> None:
    processes, port = meeting
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    # torch ends the others as soon as one has failed: maybe before they have written what they know of it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Or a test of what hangs would take half a minute.
    process_group.LISTENS_EVERY, process_group.TO_NOTICE = 0.2, 2.0
    here = [executed(config, processes=processes, rank=rank, local_rank=rank) for config in configs]
    try:
        with joined(here[0].execution) as world:
            found = [work(config, world) for config in here]
    except BaseException:
        (place / f"failed-{rank}").write_text(traceback.format_exc())
        raise
    if rank == 0:
        torch.save(found, place / "found.pt")
