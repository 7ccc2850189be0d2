"""Keep a training's state so that it survives a kill at any moment, and come back to exactly that state."""

import math
import random
import secrets
import time
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from harness.errors import UserError
from harness.files import force_to_disk, sha256_of, sweep_parts, write_whole
from harness.progress import say
from harness.weights import read_tensors

KEPT = 2
STAGED = "staged"
SET_ASIDE = "damaged"
SECONDS_BETWEEN = 2.0
MOST_OVERHEAD = 0.05

State = dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder.  A file's name ends in the first digits of its own SHA-256.

    `origin` says which code computes, on what; `notes` say where a training went on from another origin.
    """

    def __init__(self, folder: Path, origin: str) -> None:
        self.folder, self.origin = folder, origin
        self.notes: list[str] = []
        self._last = -math.inf
        self._cost = 0.0
        self._damaged: list[Path] = []
        if folder.exists():
            sweep_parts(folder)
            for staged in folder.glob(f"{STAGED}-*.pt"):
                staged.unlink(missing_ok=True)

    def due(self) -> bool:
        """Whether it is time for another: at once, then every two seconds, at most a twentieth of the time."""
        return time.monotonic() - self._last >= max(SECONDS_BETWEEN, self._cost / MOST_OVERHEAD)

    def save(self, step: int, state: State) -> None:
        """Write a checkpoint whole, then drop all but the last two."""
        started = time.monotonic()
        for damaged in self._damaged:
            damaged.rename(damaged.with_name(f"{SET_ASIDE}-{damaged.name}"))
        self._damaged = []
        staged = self.folder / f"{STAGED}-{secrets.token_hex(4)}.pt"
        write_whole(staged, lambda part: _write(part, state | self._about(step)))
        staged.rename(self.folder / (f"step-{step:09d}-{_digest(staged)}.pt"))
        force_to_disk(self.folder)
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)
        self._last = time.monotonic()
        self._cost = self._last - started

    def load(self) -> State | None:
        """The newest state that is whole, its random generators set again; None where there is no checkpoint yet.

        A damaged checkpoint is noted where an older one is whole, and set aside with the next save: several processes
        may load.  Raises UserError where none is whole.
        """
        files = self._files()
        if not files:
            return None
        state, damaged = _newest_whole(files)
        _restore_random_states(state["rng"])
        self.notes = state["notes"]
        self._damaged = damaged
        for file in damaged:
            self.notes.append(f"the checkpoint {file.name} was damaged: went on from step {state['step']}")
            say(f"{file} is damaged: going on from step {state['step']}")
        if state["origin"] != self.origin:
            self.notes.append(f"resumed at step {state['step']} by {self.origin}, after {state['origin']}")
        return state

    def _about(self, step: int) -> State:
        return {"step": step, "rng": _random_states(), "origin": self.origin, "notes": self.notes}

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*-*.pt"))


def _write(path: Path, state: State) -> None:
    with path.open("wb") as out:
        sink = _Sink(out)
        try:
            torch.save(state, cast(IO[bytes], sink))
        except RuntimeError as error:
            # What torch.save says of a signal outside our own code is that its file is too short.
            is_signal = isinstance(error.__context__, KeyboardInterrupt | SystemExit)
            raise sink.trouble or (is_signal and error.__context__) or error from error


class _Sink:
    """A file that remembers why it could not be written, which torch.save does not pass on; a signal may be why."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.trouble: BaseException | None = None

    def write(self, content: bytes) -> int:
        try:
            return self._out.write(content)
        except (OSError, KeyboardInterrupt, SystemExit) as error:
            self.trouble = error
            raise

    def flush(self) -> None:
        self._out.flush()


def _digest(path: Path) -> str:
    return sha256_of(path)[:16]


def _newest_whole(files: list[Path]) -> tuple[State, list[Path]]:
    """The state of the newest whole file, and the damaged ones after it.  Raises UserError where none is whole."""
    troubles: list[UserError] = []
    for file in reversed(files):
        try:
            return _read(file), files[len(files) - len(troubles) :]
        except UserError as error:
            troubles.append(error)
    raise troubles[0]


def _read(file: Path) -> State:
    remedy = "restore the checkpoints from a copy; or delete them all, and the run starts anew"
    if _digest(file) != file.stem.rsplit("-", 1)[1]:
        raise UserError(f"the checkpoint {file} is damaged: its content does not match its name", remedy)
    try:
        state = read_tensors(file)
    except UserError as error:
        raise UserError(error.problem, remedy) from error
    if not isinstance(state, dict) or not {"step", "rng", "origin", "notes", "model", "ema", "optimizer"} <= set(state):
        raise UserError(f"{file} is no checkpoint of a training", remedy)
    return state


def _random_states() -> State:
    """The generators that a network may draw from by itself; the harness's own numbers need no state."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    # The states of other GPUs are their own processes' affair, and asking for them would take memory there.
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else None
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def _restore_random_states(states: State) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"][0])
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
