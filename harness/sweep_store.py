"""Sweeps are kept beside their runs, so that they can be looked at, gone on with and cancelled (no torch)."""

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from harness.errors import UserError, disk_error, unknown_name
from harness.executing import executed
from harness.files import write_text
from harness.frozen import Frozen
from harness.launch_settings import Asked
from harness.spec import RunConfig

SWEEPS, FILE = "sweeps", "sweep.json"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
DIGITS_OF_NAME = 8


class Damaged(UserError):  # noqa: N818 (an outcome like any other, for who is about to write it anew)
    """A sweep that cannot be read."""


class Sweep(Frozen):
    """The runs that one command asked for, and how they are to be launched; `begun` is when it was given last."""

    name: str
    begun: datetime
    command: tuple[str, ...]
    launch: Asked
    runs: tuple[RunConfig, ...]


def name_of(configs: Sequence[RunConfig]) -> str:
    """The name of a sweep that was given none: equal for equal grids."""
    return hashlib.sha256("".join(sorted(config.run_id for config in configs)).encode()).hexdigest()[:DIGITS_OF_NAME]


def require_free(runs: Path, name: str, configs: Sequence[RunConfig]) -> None:
    """Raise UserError for a name that is no safe file name, or that stands for another grid.

    A sweep that cannot be read stands for the grid that it is called after, if it is.
    """
    if not SAFE_NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot name a sweep", "use letters, digits, dots, dashes and underscores: --name counts-on-sit"
        )
    if not _path(runs, name).exists():
        return
    try:
        known = load(runs, name).runs
    except Damaged:
        if name == name_of(configs):
            return
        raise
    if {config.run_id for config in known} != {config.run_id for config in configs}:
        raise UserError(
            f"the sweep {name} is another grid, of {len(known)} runs; this one has {len(configs)}",
            f"use --name {name}-{name_of(configs)}, or leave --name out",
        )


def keep(runs: Path, sweep: Sweep) -> None:
    """Keep a sweep, in place of what was kept when the same grid was asked for before."""
    write_text(_path(runs, sweep.name), sweep.model_dump_json() + "\n")


def names(runs: Path) -> list[str]:
    """The sweeps that there are, the one begun last first."""
    files = (runs / SWEEPS).glob(f"*/{FILE}")
    return [file.parent.name for file in sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True)]


def load(runs: Path, name: str | None = None) -> Sweep:
    """A sweep by its name; without one, that which was begun last.  Raises UserError where there is none."""
    known = names(runs)
    if not known:
        raise UserError(
            f"no sweep was begun in {runs}", "begin one: python -m harness sweep --help (or give --runs DIR)"
        )
    if name is not None and name not in known:
        raise unknown_name("sweep", name, known)
    path = _path(runs, name or known[0])
    try:
        return Sweep.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise Damaged(
            f"{path} is damaged, or another version of this program wrote it: {error.errors()[0]['msg']}",
            "delete it, and give the command again that began it: its runs are found again",
        ) from error
    except OSError as error:
        raise disk_error(path, error) from error


def placed(sweep: Sweep, runs: str, results: str | None) -> Sweep:
    """The sweep as seen from here: its runs in the folder in which it was found, its records in `results` if given."""
    places = {"runs": runs} if results is None else {"runs": runs, "results": results}
    absolute = {name: str(Path(place).absolute()) for name, place in places.items()}
    return sweep.model_copy(update={"runs": tuple(executed(config, **absolute) for config in sweep.runs)})


def _path(runs: Path, name: str) -> Path:
    return runs / SWEEPS / name / FILE
