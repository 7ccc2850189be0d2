"""What torchrun tells each process that it starts, in its environment (no torch)."""

import os

from harness.errors import UserError

FIELDS = {"processes": "WORLD_SIZE", "rank": "RANK", "local_rank": "LOCAL_RANK"}


def told() -> dict[str, int]:
    """The fields of an Execution that torchrun decides; none where the process was started by hand.

    Raises UserError for variables that are no numbers.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return {}
    try:
        return {field: int(os.environ[name]) for field, name in FIELDS.items()}
    except (KeyError, ValueError) as error:
        raise UserError(
            f"torchrun did not say which process this is: {error}",
            "start it by `torchrun --nproc-per-node N -m harness run ...`, or without torchrun",
        ) from error
