"""Which of DDPM's noise steps a sampler visits (no torch)."""

import re

from harness.errors import UserError

NUM_STEPS = 1000
FEWEST_STEPS = 2


def kept_steps(respacing: str, num_steps: int) -> list[int]:
    """The indices, ascending, that a respacing keeps of `num_steps` (IDDPM, arXiv 2102.09672).

    "" keeps all; "250" spreads 250 evenly, both ends included; "100,50,20" does so in that many equal sections;
    "ddim50" takes the first integer stride that gives exactly 50.  Raises UserError for what cannot be kept.
    """
    if not respacing:
        return list(range(num_steps))
    if match := re.fullmatch(r"ddim(\d+)", respacing):
        return _strided(int(match[1]), num_steps)
    if not re.fullmatch(r"\d+(,\d+)*", respacing):
        raise UserError(
            f"the respacing {respacing!r} is not understood",
            'write a number of steps ("250"), a list of them by section ("100,50,20"), or "ddim50"',
        )
    counts = [int(count) for count in respacing.split(",")]
    share, rest = divmod(num_steps, len(counts))
    kept, start = [], 0
    for section, count in enumerate(counts):
        size = share + (section < rest)
        if not 1 <= count <= size:
            raise UserError(
                f"the respacing {respacing!r} asks for {count} of the {size} steps in a section",
                f"ask for 1 to {size} of them",
            )
        kept += _evenly(start, size, count)
        start += size
    if len(kept) < FEWEST_STEPS:
        raise UserError(
            f"the respacing {respacing!r} keeps {len(kept)} step, from which no chain can be made",
            f"keep at least {FEWEST_STEPS}",
        )
    return kept


def _evenly(start: int, size: int, count: int) -> list[int]:
    stride = (size - 1) / (count - 1) if count > 1 else 1.0
    position, steps = 0.0, []
    for _ in range(count):
        steps.append(start + round(position))
        position += stride
    return steps


def _strided(count: int, num_steps: int) -> list[int]:
    for stride in range(1, num_steps):
        steps = range(0, num_steps, stride)
        if len(steps) == count >= FEWEST_STEPS:
            return list(steps)
    raise UserError(
        f"no integer stride visits exactly {count} of {num_steps} steps",
        "choose a ddim count such as ddim25, ddim50, ddim100 or ddim250",
    )
