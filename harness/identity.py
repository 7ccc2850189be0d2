"""What a run and its arm are called: digests of all that decides the outcome (no torch)."""

import functools
import hashlib
import json
from typing import Any

# Of a configuration's fields: how it is carried out, and what a text encoder is called, whose digest says what it is.
NO_PART_OF_ID: Any = {"seed": True, "execution": True, "text": {"encoder"}}


class Identity:
    """What runs are that differ in their seed alone: hundreds share it, and it gives each of them its ids."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def run_id(self, seed: int) -> str:
        """That of the run with this seed, 12 hexadecimal digits."""
        before, after = self._around_the_seed
        return _digest(f'{before},"seed":{seed},{after}' if seed else f"{before},{after}")  # 0 is the default

    @functools.cached_property
    def arm_id(self) -> str:
        """That of all seeds, and of all statistics of latents."""
        arm = {**self._fields, "seed": "any"}
        if "latents" in arm:
            arm["latents"] = {name: value for name, value in arm["latents"].items() if name != "statistics"}
        return _digest(_text(arm))

    @functools.cached_property
    def without_registers(self) -> "Identity":
        """That of the matched arm."""
        kept = {name: value for name, value in self._fields["registers"].items() if name == "native_tokens"}
        return Identity({**self._fields, "registers": kept})

    @functools.cached_property
    def _around_the_seed(self) -> tuple[str, str]:
        before = _text({name: value for name, value in self._fields.items() if name < "seed"})
        after = _text({name: value for name, value in self._fields.items() if name > "seed"})
        return before[:-1], after[1:]


@functools.lru_cache(maxsize=256)
def identity_of(fields: str) -> Identity:
    """The identity whose fields this JSON holds: those that are not at their default, and not the seed."""
    return Identity(json.loads(fields))


def _text(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
