"""Networks of transformers that judge images: their folders, found here or on the hub, read quietly or refused."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from harness.errors import UserError, first_few
from harness.machine import memory_explained
from harness.released import HUB_SECONDS

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"

_SHOWN: Final = 4
_LONGEST_REASON: Final = 160
_ANEW: Final = "fetch the folder anew"


@dataclass(frozen=True)
class NetworkKind:
    """What is looked for: its `title` in sentences, transformers' `model_type`, its `files`, and one `example`."""

    title: str
    model_type: str
    files: tuple[str, ...]
    example: str

    @property
    def remedy(self) -> str:
        """What to give in place of what is none."""
        return f"give a hub id such as {self.example}, or a folder with {', '.join(self.files)}"


def find_folder(place: str, kind: NetworkKind) -> Path:
    """Where the files of a hub id or of a folder are: that folder, the hub's cache, or what the hub gives into it.

    Raises UserError where one is neither here nor to be had.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return _cached(place, kind) or _fetched(place, kind)
    if lacking := [name for name in kind.files if not (folder / name).is_file()]:
        raise UserError(f"{folder} is no {kind.title} of transformers: it lacks {', '.join(lacking)}", kind.remedy)
    return folder


def name_of(place: str) -> str:
    """A hub id as it is; of a folder its last name, never a path."""
    folder = Path(place).expanduser()
    return folder.resolve().name if folder.is_dir() else place


def require_kind(folder: Path, kind: NetworkKind) -> None:
    """Raise UserError where its settings are of another kind of model.  They name no code that would be run."""
    try:
        settings = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise _unread(folder, kind, error) from error
    found = settings.get("model_type") if isinstance(settings, dict) else None
    if found != kind.model_type:
        raise UserError(f"{folder} is of the kind {found}, not {kind.model_type}", kind.remedy)


@contextmanager
def reading(folder: Path, kind: NetworkKind) -> Iterator[None]:
    """Within this transformers reads: without bars, and raising UserError where the folder is at fault."""
    with _quietly():
        try:
            yield
        except _unfit() as error:
            raise _unread(folder, kind, error) from error


@contextmanager
def moving(kind: NetworkKind) -> Iterator[None]:
    """Within this a network is moved to its device.  Raises UserError where that is too small."""
    with memory_explained(f"opening the {kind.title}", "close what else uses the GPU, or use --device cpu"):
        yield


def require_all(missing: Collection[str], file: Path) -> None:
    """Raise UserError where a file lacks weights: transformers would draw them at random."""
    if missing:
        problem = f"{file} lacks {len(missing)} weights: {first_few(sorted(missing), _SHOWN)}"
        raise UserError(problem, _ANEW)


def _cached(place: str, kind: NetworkKind) -> Path | None:
    """The folder in the hub's cache that holds all of its files."""
    import huggingface_hub

    snapshots = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{place.replace('/', '--')}" / "snapshots"
    whole = [folder for folder in snapshots.glob("*") if all((folder / name).is_file() for name in kind.files)]
    return max(whole, key=lambda folder: folder.stat().st_mtime, default=None)


def _fetched(place: str, kind: NetworkKind) -> Path:
    """The hub is asked once whether it answers; the calls that fetch would try again for half a minute."""
    import huggingface_hub

    try:
        revision = huggingface_hub.HfApi().repo_info(place, timeout=HUB_SECONDS).sha
        files = [huggingface_hub.hf_hub_download(place, name, revision=revision) for name in kind.files]
    except _out_of_reach() as error:
        raise UserError(
            f"the {kind.title} is not here: {place} is no folder, and the hub did not give it: {_reason(error)}",
            f"{kind.remedy}, fetched elsewhere",
        ) from error
    return Path(files[0]).parent


def _out_of_reach() -> tuple[type[BaseException], ...]:
    """What the hub's client raises: its own errors, and those of its HTTP library, which changed twice."""
    import huggingface_hub.errors

    return (OSError, ValueError, *huggingface_hub.errors.HfHubHTTPError.__bases__)


@contextmanager
def _quietly() -> Iterator[None]:
    import transformers

    logging: Any = transformers.utils.logging
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def _unfit() -> tuple[type[Exception], ...]:
    """What transformers fails with where a folder is at fault; its check of settings has a class of its own."""
    import huggingface_hub.errors
    from safetensors import SafetensorError

    of_settings = getattr(huggingface_hub.errors, "StrictDataclassError", ValueError)
    usual = (OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, ImportError)
    return (*usual, SafetensorError, of_settings)


def _unread(folder: Path, kind: NetworkKind, error: Exception) -> UserError:
    return UserError(f"the {kind.title} in {folder} cannot be read: {_reason(error)}", _ANEW)


def _reason(error: BaseException) -> str:
    """In one line; some errors say nothing but their kind."""
    said = str(error).strip() or type(error).__name__
    return said.splitlines()[0][:_LONGEST_REASON]
