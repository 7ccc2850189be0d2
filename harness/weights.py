"""Weights from files: read without running code, loaded without leaving a key over."""

import argparse
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.errors import UserError, disk_error, first_few

SHOWN_KEYS = 8

# The averages to load, by the name under which a training file keeps them: JiT; DiT, SiT, RAE, DSR and this project.
AVERAGES = ("model_ema1", "ema")
# What JiT's training class, DistributedDataParallel and torch.compile put before every key.
WRAPPERS = ("net.", "module.", "_orig_mod.")
_ADAPTER = re.compile(r"(^|[._])lora([._]|$)", re.IGNORECASE)
# torch reads a broken stream as far as it goes, and then says what Python says.
_DAMAGE = (
    RuntimeError,
    EOFError,
    SafetensorError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
)
_PICKLE_STARTS = (b"PK", b"\x80")

_ALONE = "save the one that you mean alone, as a state dict"

TABLE_TOLERANCE = 1e-5

Status = Literal["loads", "checked", "missing", "unexpected", "given twice", "shape differs", "value differs"]
FITTING: tuple[Status, ...] = ("loads", "checked")

NO_TABLES: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class StateDict:
    """A state dict in float32, and where in its file it was found."""

    tensors: dict[str, Tensor]
    entry: str


@dataclass(frozen=True)
class Row:
    """What becomes of one tensor: `ours` is our key, or the reason why it has none."""

    official: str
    ours: str
    shape: str
    status: Status


def read_tensors(path: Path, *, mapped: bool = False) -> Any:
    """What a `.safetensors` or torch file holds: tensors and plain containers, nothing that could run.

    `mapped` reads a tensor from disk only when it is used, so that the optimizer of a training file costs nothing.
    The one class allowed beside tensors is argparse's Namespace, in which official checkpoints keep their arguments.
    Raises UserError for a file that is missing, damaged, no file of weights, or a pickle that asks for code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            lazily = mapped and zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except FileNotFoundError:
        raise UserError(f"there is no weights file {path}", "give the path of a .pt or .safetensors file") from None
    except pickle.UnpicklingError as error:
        if not _starts_like_a_pickle(path):
            raise UserError(f"{path} is no file of weights", "give a .pt or .safetensors file") from error
        raise UserError(
            f"{path} is not a file of plain tensors: loading it could run code, so it was not loaded",
            f"save the tensors alone, as a state dict ({_first_line(error, 120)})",
        ) from error
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged: {_first_line(error, 160)}", "fetch or make the file anew") from error
    except OSError as error:
        raise disk_error(path, error) from error


def read_official(path: Path) -> Mapping[str, Tensor]:
    """The state dict in an official file: a bare one, or the EMA of a training checkpoint.

    Raises UserError where the file holds neither.
    """
    return find_state(read_tensors(path, mapped=True), str(path)).tensors


def find_state(content: Any, title: str) -> StateDict:
    """The state dict in what a file holds: the whole of it, or the one EMA; wrappers' prefixes off, in float32.

    Raises UserError where there is none, where there are several, or where it is empty or an adapter; never falls
    back from an EMA to the weights that it averages.
    """
    if not isinstance(content, Mapping):
        raise _no_state(title)
    found = [name for name in AVERAGES if isinstance(content.get(name), Mapping)]
    if len(found) > 1:
        raise UserError(f"{title} holds {' and '.join(found)}: which to load is not clear", _ALONE)
    nested = [str(name) for name, value in content.items() if isinstance(value, Mapping)]
    if nested and not found:
        raise UserError(f"{title} holds {first_few(nested, SHOWN_KEYS)}, but no EMA ({' or '.join(AVERAGES)})", _ALONE)
    entry = found[0] if found else "the whole file"
    state = content[entry] if found else content
    if not state:
        raise UserError(f"{title}: {entry} is empty", "give a file from a training that kept its EMA")
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise _no_state(title)
    if any(_ADAPTER.search(key) for key in state):
        raise UserError(
            f"{title} is a LoRA adapter: a change to a network, not a network",
            "merge it into the network that it was made for, and give the result",
        )
    bare, prefix = _unwrapped(state)
    plain, notes = _as_float32(bare)
    parts = [entry, *([f"without the prefix {prefix}"] if prefix else []), *notes]
    return StateDict(plain, ", ".join(parts))


def load_official(
    module: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str], derived: Mapping[str, Tensor] = NO_TABLES
) -> None:
    """Load an official state dict strictly; `names` maps official keys to ours where they differ.

    Raises UserError with the missing keys, the unexpected ones and the shapes that differ.
    """
    module.load_state_dict(fitted(module, state, names, derived), strict=True)


def fitted(
    module: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str], derived: Mapping[str, Tensor] = NO_TABLES
) -> dict[str, Tensor]:
    """The state dict under our names, once it is sure to fit; the module may be on the meta device.

    `derived` maps the official key of a table that follows from others to what it must equal: it may be absent, and
    is never loaded.
    """
    rows = compare(state, module.state_dict(), names, derived)
    troubles = [
        *_listed("missing", [row.ours for row in rows if row.status == "missing"]),
        *_listed("unexpected", [row.official for row in rows if row.status == "unexpected"]),
        *_listed("given twice", [row.ours for row in rows if row.status == "given twice"]),
        *_listed("of another shape", [f"{row.official} {row.shape}" for row in rows if row.status == "shape differs"]),
        *_listed("of another value than the table they state", _of_status(rows, "value differs")),
    ]
    if troubles:
        raise UserError(
            f"these weights do not fit this network: {'; '.join(troubles)}",
            "choose the backbone and size that the file was made for",
        )
    return {row.ours: state[row.official] for row in rows if row.status == "loads"}


def compare(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    names: Mapping[str, str],
    derived: Mapping[str, Tensor] = NO_TABLES,
) -> list[Row]:
    """What becomes of every tensor of a file, in its order, then every one that the network lacks.  Never raises."""
    assert not any(table.is_meta for table in derived.values()), "a derived table without values checks nothing"
    assert not {names.get(key, key) for key in derived} & set(wanted), "a derived table is not part of the network"
    rows: list[Row] = []
    given: set[str] = set()
    for key, value in state.items():
        ours, shape = names.get(key, key), str(tuple(value.shape))
        if key in derived:
            rows.append(_compare_table(key, value, derived[key]))
        elif ours not in wanted:
            rows.append(Row(key, "no such part in this network", shape, "unexpected"))
        elif ours in given:
            rows.append(Row(key, ours, shape, "given twice"))
        elif value.shape != wanted[ours].shape:
            rows.append(Row(key, ours, f"{shape} for {tuple(wanted[ours].shape)}", "shape differs"))
        else:
            rows.append(Row(key, ours, shape, "loads"))
        given.add(ours)
    official = {ours: key for key, ours in names.items()}
    missing = [key for key in wanted if key not in given]
    return rows + [Row(official.get(key, key), key, str(tuple(wanted[key].shape)), "missing") for key in missing]


def _starts_like_a_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2).startswith(_PICKLE_STARTS)


def _first_line(error: Exception, most: int) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:most]


def _no_state(title: str) -> UserError:
    return UserError(f"{title} holds no state dict", "give a bare state dict, or a training checkpoint with its EMA")


def _unwrapped(state: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
    """The state without what wrappers put before every key, and what that was."""
    removed = ""
    while prefix := next((w for w in WRAPPERS if all(key.startswith(w) for key in state)), ""):
        removed += prefix
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state, removed


def _as_float32(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    others = sorted({_dtype(v) for v in state.values() if v.is_floating_point() and v.dtype != torch.float32})
    plain = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    return plain, [f"{' and '.join(others)} cast to float32"] if others else []


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _compare_table(key: str, value: Tensor, table: Tensor) -> Row:
    shape = str(tuple(value.shape))
    if value.shape != table.shape:
        return Row(key, "derived table", f"{shape} for {tuple(table.shape)}", "shape differs")
    given, stated = value.float(), table.detach().cpu().float()
    if not torch.allclose(given, stated, rtol=_spacing(given), atol=TABLE_TOLERANCE):
        return Row(key, "derived table: must equal ours", shape, "value differs")
    return Row(key, "derived table: checked, not loaded", shape, "checked")


def _spacing(given: Tensor) -> float:
    """How far apart its numbers lie in relation to their size, where a table was kept in half precision; else 0."""
    halves = [dtype for dtype in (torch.bfloat16, torch.float16) if torch.equal(given.to(dtype).float(), given)]
    return torch.finfo(halves[0]).eps if halves else 0.0


def _of_status(rows: list[Row], status: Status) -> list[str]:
    return [row.official for row in rows if row.status == status]


def _listed(kind: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    return [f"{len(keys)} {kind}: {first_few(keys, SHOWN_KEYS)}"]
