"""The arms that one command runs: with registers, and beside them the matched ones without (no torch)."""

from collections.abc import Sequence
from dataclasses import replace

from harness.resolve import Request, resolve
from harness.spec import RunConfig

NONE = "none"


def arms_of(request: Request, seeds: Sequence[int], *, alone: bool, needs_data: bool) -> list[RunConfig]:
    """The runs of a request over its seeds; over several seeds each after its matched arm, unless it is `alone`.

    Raises UserError as `resolve` does.
    """
    configs = []
    for seed in seeds:
        if len(seeds) > 1 and request.registers != NONE and not alone:
            configs.append(resolve(without_registers(replace(request, seed=seed)), needs_data=needs_data))
        configs.append(resolve(replace(request, seed=seed), needs_data=needs_data))
    return configs


def without_registers(request: Request) -> Request:
    """The same request without registers, and without what belongs to an encoder that has some."""
    execution = request.execution.model_copy(update={"statistics": None, "registered_weights": None})
    changes = tuple(change for change in request.changes if not change.startswith("registers."))
    return replace(request, registers=NONE, neurons=None, changes=changes, execution=execution)
