"""The folder of a pretrained pipeline: where it is, whether it may be opened, and the digest of its weights."""

import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import UserError, first_few
from harness.files import read_settings, sha256_of
from harness.progress import Progress

INDEX_FILE = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
TRANSFORMER = "transformer"
# Of networks and schedulers, and of tokenizers: tokenizer.json, merges.txt, vocab.txt, spiece.model.
SETTINGS = ("*.json", "*.txt", "*.model")
HUB_SECONDS = 10

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NAMED = 6


@dataclass(frozen=True)
class PipelineFolder:
    """A folder that may be opened: its name (a hub id, or the folder's), its class, and its components' classes.

    `absent` are components that its class could have, and that it was released without.
    """

    name: str
    path: Path
    pipeline_class: str
    components: Mapping[str, str]
    absent: tuple[str, ...] = ()

    def weights_sha256(self) -> str:
        """One digest over all files of weights that opening reads, with their names.

        Raises UserError where a component has no weights, or a file cannot be read.
        """
        files = list(self._weights())
        if not any(file.is_relative_to(self.path / TRANSFORMER) for file in files):
            raise UserError(
                f"{self.path / TRANSFORMER} holds no weights",
                f"put its diffusion_pytorch_model*.safetensors there: {_by_hand(self.name)}",
            )
        total = hashlib.sha256()
        with Progress("hashing weights", len(files)) as progress:
            for file in files:
                total.update(f"{sha256_of(file)}  {file.relative_to(self.path).as_posix()}\n".encode())
                progress.advance(1, file.name)
        return total.hexdigest()

    def settings_sha256(self) -> str:
        """One digest over everything that is said of its components: what moves images beside the weights."""
        total = hashlib.sha256()
        said = [file for pattern in SETTINGS for file in self._of_components(pattern)]
        for file in sorted([self.path / INDEX_FILE, *said]):
            total.update(f"{sha256_of(file)}  {file.relative_to(self.path).as_posix()}\n".encode())
        return total.hexdigest()

    def _weights(self) -> Iterator[Path]:
        """Of each component its .safetensors, or its .bin where it has none; variants (NAME.fp16.*) are not opened."""
        for component in sorted(self.components):
            for suffix in (".safetensors", ".bin"):
                found = [file for file in (self.path / component).glob(f"*{suffix}") if "." not in file.stem]
                if found:
                    yield from sorted(found)
                    break

    def _of_components(self, pattern: str) -> Iterator[Path]:
        for component in self.components:
            yield from (self.path / component).glob(pattern)


def find_pipeline(text: str) -> PipelineFolder:
    """The pipeline that a user means: a local folder, or `owner/name` on the hub, whose index alone is fetched.

    Raises UserError where there is none, where it needs code of its own, or where it has no transformer.
    """
    path = Path(text).expanduser()
    if text and path.exists():
        index = path / INDEX_FILE
        if not index.is_file():
            raise UserError(
                f"{path} is not the folder of a pipeline: it has no {INDEX_FILE}",
                "give the folder that save_pretrained wrote, with the transformer, the text encoders and the scheduler",
            )
        return _checked(path.resolve().name, path, index)
    if not _HUB_ID.fullmatch(text) or ".." in path.parts:
        raise UserError(
            f"there is no pipeline {text}", "give the folder of a diffusers pipeline, or its hub id: owner/name"
        )
    index = _fetched_index(text)
    return _checked(text, index.parent, index)


def fetched(folder: PipelineFolder) -> PipelineFolder:
    """The folder with all its weights, which are fetched from the hub where it is not a local one.

    Raises UserError where they are neither here nor to be had.
    """
    if not _is_of_hub(folder):
        return folder
    from diffusers import DiffusionPipeline

    refused = _refused(folder.name)
    try:
        path = DiffusionPipeline.download(folder.name, trust_remote_code=False, local_files_only=refused is not None)
    except _out_of_reach() as error:
        raise _not_given(folder.name, refused or error) from error
    return replace(folder, path=Path(path))


def _is_of_hub(folder: PipelineFolder) -> bool:
    return "/" in folder.name


def _fetched_index(name: str) -> Path:
    import huggingface_hub

    refused = _refused(name)
    try:
        return Path(huggingface_hub.hf_hub_download(name, INDEX_FILE, local_files_only=refused is not None))
    except _out_of_reach() as error:
        raise _not_given(name, refused or error) from error


def _refused(name: str) -> BaseException | None:
    """Why the hub does not give it, asked once and for seconds; the calls that fetch would try for half a minute."""
    import huggingface_hub

    try:
        huggingface_hub.HfApi().repo_info(name, timeout=HUB_SECONDS)
    except _out_of_reach() as error:
        return error
    return None


def _out_of_reach() -> tuple[type[BaseException], ...]:
    """What the hub's client raises: its own errors, and those of its HTTP library, which changed twice."""
    import huggingface_hub.errors

    return (OSError, ValueError, *huggingface_hub.errors.HfHubHTTPError.__bases__)


def _not_given(name: str, error: BaseException) -> UserError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    return UserError(f"{name} is not here, and the hub did not give it: {reason}", _by_hand(name))


def _by_hand(name: str) -> str:
    return (
        f"where there is a network: `hf download {name if '/' in name else 'OWNER/NAME'} --local-dir DIR`, then "
        "--backbone diffusers:DIR; for a model that asks for consent, log in with `hf auth login` first"
    )


def _checked(name: str, path: Path, index_file: Path) -> PipelineFolder:
    index = read_settings(index_file, _by_hand(name))
    pipeline_class = index.get("_class_name")
    _require_known(index_file, pipeline_class)
    pairs = {name: said for name, said in index.items() if isinstance(said, list) and len(said) == 2}
    absent = tuple(name for name, said in pairs.items() if said == [None, None])
    components = {name: _of_library(index_file, name, said) for name, said in pairs.items() if name not in absent}
    if TRANSFORMER not in components:
        raise UserError(
            f"{name} ({pipeline_class}) has no transformer: a component {TRANSFORMER!r} was looked for in "
            f"{index_file.name}, which names {first_few(sorted(components), _NAMED) or 'none'}",
            "give a pipeline with a diffusion transformer (PixArt, SD3, FLUX, Sana ...): a U-Net has no tokens",
        )
    return PipelineFolder(name, path, str(pipeline_class), components, absent)


def _require_known(index_file: Path, pipeline_class: Any) -> None:
    """Raise UserError for a class that diffusers does not have: it would be code that came with the weights."""
    if importlib.util.find_spec("diffusers") is None:
        raise UserError("pipelines need the package diffusers, which is not installed", "pip install diffusers")
    import diffusers

    kind = getattr(diffusers, pipeline_class, None) if isinstance(pipeline_class, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise UserError(
            f"{index_file} names the pipeline {pipeline_class}, which diffusers {diffusers.__version__} does not have: "
            "code that comes with weights is not run",
            "give a pipeline of diffusers' own, or install the version of diffusers, or the packages, that it needs",
        )


def _of_library(index_file: Path, component: str, said: list[Any]) -> str:
    """A component's class.  Raises UserError where that is not one of the libraries'."""
    if said[0] not in LIBRARIES:
        raise UserError(
            f"{index_file} takes its {component} from {said[0]}: code that comes with weights is not run",
            f"give a pipeline whose components are of {' and '.join(LIBRARIES)}",
        )
    return str(said[1])
