"""The layout of official checkpoints: DSR's names for registers, the order of its state dict, the tables it derives."""

# R registers, L patches, d width of a head

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.denoiser import Denoiser
from harness.registers import RegisterConfig

TABLES = (".freqs_cos", ".freqs_sin")
SET_PREFIXES = {1: ("",), 2: ("enc_", "dec_")}


@dataclass(frozen=True)
class OfficialLayout:
    """`order` lists the official keys; `names` maps those that we call otherwise to ours; `derived` holds tables.

    A derived table follows from another one: DSR keeps its rotary tables a second time, with unrotated rows for the
    registers in front.  It is checked, not loaded.
    """

    order: tuple[str, ...]
    names: Mapping[str, str]
    derived: Mapping[str, Tensor]


def layout(registers: RegisterConfig, denoiser: Denoiser) -> OfficialLayout:
    """How the official code would write this denoiser's state dict."""
    state = denoiser.state_dict()
    names = dict(_register_names(registers, denoiser))
    names |= {key.replace(".mixing.", "."): key for key in state if key.endswith((".mixing.k_bias", ".mixing.v_bias"))}
    derived = {}
    if registers.denoiser is not None:
        derived = {
            f"{key.removesuffix(suffix)}_incontext{suffix}": _with_rows(table, registers.denoiser.count, suffix)
            for key, table in state.items()
            for suffix in TABLES
            if key.endswith(suffix)
        }
    ours_to_official = {ours: official for official, ours in names.items()}
    keys = [ours_to_official.get(key, key) for key in state]
    return OfficialLayout(tuple(_ordered(keys, set(names), derived)), names, derived)


def _register_names(registers: RegisterConfig, denoiser: Denoiser) -> Iterator[tuple[str, str]]:
    if registers.denoiser is None or registers.denoiser.content != "learned":
        return
    starts = [registers.denoiser.start_block, *(trunk.start for trunk in denoiser.trunks[1:])]
    places = list(zip(SET_PREFIXES[len(starts)], starts, strict=True))
    kinds = [("register_pos_embed", "position"), ("register_tokens", "tokens")]
    for official, ours in kinds if registers.denoiser.position != "none" else kinds[1:]:
        for prefix, start in places:
            yield f"{prefix}{official}", f"registers.sets.{start}.{ours}"


def _with_rows(table_Ld: Tensor, count: int, suffix: str) -> Tensor:
    """The table behind rows that turn nothing: cosine 1, sine 0."""
    unturned = 1.0 if suffix == ".freqs_cos" else 0.0
    return torch.cat([table_Ld.new_full((count, table_Ld.shape[1]), unturned), table_Ld])


def _ordered(keys: list[str], renamed: set[str], derived: Mapping[str, Tensor]) -> Iterator[str]:
    """Registers after the patches' positions, derived tables after theirs, biases before the projection."""
    registers = [key for key in renamed if "register_" in key]
    biases = {key for key in renamed if "register_" not in key}
    plain = [key for key in keys if key not in renamed]
    for key in plain:
        layer = key.removesuffix("qkv.weight")
        yield from (f"{layer}{name}" for name in ("k_bias", "v_bias") if f"{layer}{name}" in biases)
        yield key
        if key == "pos_embed":
            yield from sorted(registers, key=lambda name: ("tokens" in name, "dec_" in name))
        if key.endswith(TABLES[1]):
            stem = key.removesuffix(TABLES[1])
            yield from (f"{stem}_incontext{suffix}" for suffix in TABLES if f"{stem}_incontext{suffix}" in derived)
