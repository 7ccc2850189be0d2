"""Weights from files: read without running code, loaded without leaving a key over."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.errors import UserError, disk_error, first_few

SHOWN_KEYS = 8


def read_tensors(path: Path) -> Any:
    """What a `.safetensors` or torch file holds: tensors and plain containers, nothing that could run.

    The one class allowed beside them is argparse's Namespace, in which official checkpoints keep their arguments.
    Raises UserError for a file that is missing, damaged, or a pickle that asks for code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no weights file {path}", "give the path of a .pt or .safetensors file") from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a file of plain tensors: loading it could run code, so it was not loaded",
            f"save the tensors alone, as a state dict ({str(error).splitlines()[0][:120]})",
        ) from error
    except (RuntimeError, EOFError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: {str(error).splitlines()[0][:160]}", "fetch or make the file anew"
        ) from error
    except OSError as error:
        raise disk_error(path, error) from error


def read_official(path: Path) -> Mapping[str, Tensor]:
    """The state dict in an official file: a bare one, or the EMA of a training checkpoint.

    Raises UserError where the file holds neither.
    """
    content = read_tensors(path)
    if isinstance(content, dict) and isinstance(content.get("ema"), dict):
        content = content["ema"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict", "give a bare state dict, or a training checkpoint with its EMA")
    return content


def load_official(module: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    """Load an official state dict strictly; `names` maps official keys to ours where they differ.

    Raises UserError with the missing keys, the unexpected ones and the shapes that differ.
    """
    module.load_state_dict(fitted(module, state, names), strict=True)


def fitted(module: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The state dict under our names, once it is sure to fit; the module may be on the meta device."""
    renamed = {names.get(key, key): value for key, value in state.items()}
    wanted = module.state_dict()
    troubles = [
        *_listed("missing", [key for key in wanted if key not in renamed]),
        *_listed("unexpected", [key for key in renamed if key not in wanted]),
        *_listed(
            "of another shape",
            [
                f"{key} {tuple(renamed[key].shape)} for {tuple(value.shape)}"
                for key, value in wanted.items()
                if key in renamed and renamed[key].shape != value.shape
            ],
        ),
    ]
    if troubles:
        raise UserError(
            f"these weights do not fit this network: {'; '.join(troubles)}",
            "choose the backbone and size that the file was made for",
        )
    return renamed


def _listed(kind: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    return [f"{len(keys)} {kind}: {first_few(keys, SHOWN_KEYS)}"]
