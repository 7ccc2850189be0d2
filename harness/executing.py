"""The same run, carried out otherwise: nothing here is a part of what it is (no torch)."""

from pathlib import Path
from typing import Any

from harness.encoder_folder import folder_of
from harness.extractors import weights_by_extractor
from harness.spec import Execution, RunConfig


def executed(config: RunConfig, **changes: Any) -> RunConfig:
    """The run with other fields of its Execution."""
    return config.model_copy(update={"execution": config.execution.model_copy(update=changes)})


def from_anywhere(config: RunConfig) -> RunConfig:
    """The run with paths that hold in every working directory of this machine.

    What is no file here, such as a released model's name, stays as it is.
    """
    execution = config.execution
    encoder = execution.encoder and folder_of(execution.encoder)
    changes = {
        "data": execution.data and _absolute(execution.data),
        "runs": _absolute(execution.runs),
        "results": _absolute(execution.results),
        "references_dir": execution.references_dir.absolute(),
        "extractor_weights": tuple(
            f"{name}={_if_there(path)}" if name else _if_there(path)
            for name, path in weights_by_extractor(execution.extractor_weights).items()
        ),
        "encoder": str(encoder.absolute()) if encoder else execution.encoder,
    }
    return executed(config, **changes, **{name: _if_there(getattr(execution, name)) for name in FILES})


# Paths, or what stands for a model on the hub.
FILES = ("weights", "guide", "vae", "encoder_weights", "registered_weights", "decoder", "statistics")
assert set(Execution.model_fields) >= set(FILES), "a field that was renamed"


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


def _if_there(path: str | None) -> str | None:
    """Absolute, where it is a file or folder."""
    return str(Path(path).expanduser().absolute()) if path and Path(path).expanduser().exists() else path
