"""A sweep as a person reads it: what tells its runs apart, how far each is, what the rest may take (no torch)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.launcher_names import is_scheduled
from harness.spec import RunConfig
from harness.sweep_estimate import Estimate
from harness.sweep_status import Known, counts
from harness.text_table import columns, counted

SECTIONS = {"network", "latents", "objective", "recipe", "sampler", "protocol", "registers"}
PLANNED = {"finished": "exists already", "diverged": "exists already (diverged)", "missing": "will start"}
MOVING = ("running", "queued", "trained")


def plan(known: Sequence[Known], estimates: Sequence[Estimate | None]) -> str:
    """The table of a sweep before it starts; the estimates are those of the runs that have no record."""
    told = differences({each.run_id: each.config for each in known})
    hours = iter(estimates)
    rows = [["run", "backbone", "registers", "seed", "state", "hours"]]
    for each in known:
        estimate = None if each.is_over else next(hours)
        rows.append([*_names(each, told), _planned(each), f"{estimate.hours:.2g}" if estimate else ""])
    return columns(rows)


def table(known: Sequence[Known], all_of: Sequence[Known]) -> str:
    """How far some runs of a sweep are; what is said of them tells them from `all_of` it."""
    told = differences({each.run_id: each.config for each in all_of})
    rows = [["run", "backbone", "registers", "seed", "state", "progress", "where", "why"]]
    rows += [[*_names(each, told), each.status, _progress(each), _where(each), each.reason] for each in known]
    return columns(rows)


def in_all(known: Sequence[Known]) -> str:
    """In one line: how many runs there are, and how far."""
    return f"{counted(len(known), 'run')}: {', '.join(f'{count} {status}' for status, count in counts(known).items())}"


def by_interest(known: Iterable[Known]) -> list[Known]:
    """What moves first, then what went wrong, then what is done."""
    return sorted(known, key=lambda each: (each.is_over, each.status not in MOVING, each.status))


def differences(configs: Mapping[str, RunConfig]) -> Mapping[str, str]:
    """By run_id, its registers with those of their fields, and what else, in which it differs from its like.

    The like of a run have its backbone, and where registers are concerned its preset.
    """
    fields = {run_id: dict(_flat("", config.model_dump(include=SECTIONS))) for run_id, config in configs.items()}
    told = {run_id: [config.registers.preset] for run_id, config in configs.items()}
    for is_registers in (True, False):
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for run_id, config in configs.items():
            like = (config.registers.preset,) if is_registers else ()
            groups[config.backbone, config.size, *like].append(run_id)
        for members in groups.values():
            names = list(_varying([fields[member] for member in members]))
            chosen = [name for name in names if name.startswith("registers.") == is_registers]
            for member in members:
                own = fields[member]
                told[member] += [f"{name.rpartition('.')[2]}={own[name]}" for name in chosen if name in own]
    return {run_id: " ".join(words) for run_id, words in told.items()}


def _varying(fields: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The names of fields that are not the same in all."""
    for name in dict.fromkeys(name for each in fields for name in each):
        first = fields[0].get(name)
        if any(each.get(name) != first for each in fields):
            yield name


def _flat(above: str, part: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _flat(f"{above}{name}.", value)
        else:
            yield f"{above}{name}", value


def _names(known: Known, told: Mapping[str, str]) -> list[str]:
    return [known.run_id, known.config.exact_name, told[known.run_id], str(known.config.seed)]


def _planned(known: Known) -> str:
    if known.is_in_hand:
        return known.status
    return PLANNED.get(known.status, f"{known.status} before, will start")


def _progress(known: Known) -> str:
    return f"{known.phase} {known.step}/{known.total}".strip() if known.total and not known.is_over else ""


def _where(known: Known) -> str:
    """The machine that works on it, and its job where a scheduler gave it a number."""
    job = known.job if is_scheduled(known.job) else ""
    return " ".join(filter(None, [known.host if known.status == "running" else "", job]))
