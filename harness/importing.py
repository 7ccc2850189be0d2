"""Take over a released model: show how its names map to ours, and write it under ours."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from harness.build import build, map_weights, put_into
from harness.errors import UserError
from harness.files import write_bytes
from harness.released import Released, locate, read_released
from harness.spec import RunConfig
from harness.text_table import columns
from harness.weights import FITTING, Row


@dataclass(frozen=True)
class Import:
    """What became of each key of a released model."""

    released: Released
    rows: tuple[Row, ...]
    written: Path | None

    def shown(self) -> dict[str, Any]:
        """For machines."""
        about = {"name": self.released.name, "entry": self.released.entry, "sha256": self.released.sha256}
        rows = [{"official": r.official, "ours": r.ours, "shape": r.shape, "status": r.status} for r in self.rows]
        return about | {"written": str(self.written) if self.written else None, "keys": rows}

    def report(self) -> str:
        """For people: a line for each key, then the counts."""
        lines = [[row.official, row.ours, row.shape, row.status] for row in self.rows]
        counts = ", ".join(f"{count} {status}" for status, count in Counter(row.status for row in self.rows).items())
        head = f"{self.released.name} ({self.released.entry}), SHA-256 {self.released.sha256}"
        foot = f"written to {self.written}" if self.written else "nothing was written"
        return "\n".join([head, columns(lines), counts, foot])

    def require_fit(self) -> None:
        """Raise UserError where a key does not fit, after it has been shown."""
        misfits = [row for row in self.rows if row.status not in FITTING]
        if misfits:
            raise UserError(
                f"{len(misfits)} of {len(self.rows)} keys of {self.released.name} do not fit this network",
                "choose the backbone, size, registers and input that the file was made for",
            )


def import_weights(config: RunConfig, place: str, out: Path | None) -> Import:
    """Map a released model's keys; write it to `out` if there is one and every key fits.

    Raises UserError for a file that cannot be read or written.
    """
    released, denoiser = read_released(locate(place)), build(config)
    rows = tuple(map_weights(config, denoiser, released))
    fits = all(row.status in FITTING for row in rows)
    if out is not None and fits:
        put_into(config, denoiser, released)
        write_bytes(out, save({name: value.contiguous() for name, value in denoiser.state_dict().items()}))
    return Import(released, rows, out if fits else None)
