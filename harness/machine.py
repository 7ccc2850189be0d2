"""Which device of this machine is computed on, and with how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.errors import UserError


def find_device(wanted: str) -> torch.device:
    """The device of a name: "auto", cpu, cuda, cuda:1.  Raises UserError for one that is not here."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UserError(f"there is no kind of device named {wanted!r}", "use --device cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"runs on {device.type} are not supported", "use --device cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"this machine has {torch.cuda.device_count()} CUDA devices: no {wanted}", "use --device cpu")
    return device


def decide_precision(wanted: str, device: torch.device) -> str:
    """What a recipe's precision means on a device, and TF32 switched on or off as it says.

    Raises UserError for bf16 on a GPU that has none.
    """
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and device.type == "cuda" and not has_bf16:
        raise UserError("this GPU has no bf16 arithmetic", "set recipe.precision=float32")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted == "tf32"
    if wanted == "auto":
        return "bf16" if has_bf16 else "float32"
    return "float32" if wanted == "tf32" and device.type == "cpu" else wanted


def name_of(device: torch.device) -> str:
    """What a device is called: "NVIDIA H200", or "CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def start(wanted: str, threads: int) -> torch.device:
    """`find_device`, and so many CPU threads from now on; 0 leaves torch's own number."""
    if threads:
        torch.set_num_threads(threads)
    return find_device(wanted)


@contextmanager
def memory_explained(doing: str, remedy: str) -> Iterator[None]:
    """Raise UserError where a GPU's memory is too small for what is done within this."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first_line = str(error).partition("\n")[0].partition(". GPU")[0]
        raise UserError(f"{doing} needs more memory than the GPU has: {first_line}", remedy) from error
