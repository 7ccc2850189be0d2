"""Several arrays in one file, put in its place whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.files import write_whole


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """`write_whole` for named arrays, as `.npz` without compression."""

    def write(part: Path) -> None:
        with part.open("wb") as out:
            np.savez(out, allow_pickle=False, **arrays)

    write_whole(path, write)
