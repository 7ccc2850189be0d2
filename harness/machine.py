"""Which device of this machine is computed on, and with how many threads."""

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


def start(wanted: str, threads: int) -> torch.device:
    """`find_device`, and so many CPU threads from now on; 0 leaves torch's own number."""
    if threads:
        torch.set_num_threads(threads)
    return find_device(wanted)
