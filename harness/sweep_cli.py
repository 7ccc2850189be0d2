"""The verb `sweep`: names only, and no torch."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.arguments import add_changes, print_json
from harness.errors import UserError
from harness.progress import say
from harness.request_cli import add_carrying_out, add_conditions, request_of
from harness.text_table import counted

if TYPE_CHECKING:
    from harness.launch import Launcher
    from harness.launch_settings import Asked
    from harness.resolve import Request
    from harness.spec import RunConfig
    from harness.sweep_store import Sweep

SOME_FAILED = 1
PLACES = {"--runs", "--results"}
USAGE = """python -m harness sweep --backbone LIST [--registers LIST] [--seeds LIST] [--set FIELD=LIST] ...
       python -m harness sweep --file grid.toml ...
       python -m harness sweep status|resume|cancel [NAME] ..."""
DESCRIPTION = """\
Run every backbone with every register preset, every value of each --set and every seed, and beside
them the matched runs without registers. What there will be is shown first, and only what has no
record yet is started; the same command again, or `sweep resume`, goes on where it was stopped.

`status`, `resume` and `cancel` are about a sweep that was begun. With the local launcher the command
stays until the last run has ended, and exits with 1 where some have no record then; with Slurm it
returns when they are submitted."""
EXAMPLES = """examples:
  python -m harness sweep --backbone sit,jit --registers dsr --seeds 0-2 --dry-run
  python -m harness sweep --backbone sit --registers denoiser --set registers.denoiser.count=4,16,36
  python -m harness sweep --file grid.toml --launcher slurm --partition gpu --gpus 1
  python -m harness sweep status --watch

a grid file says the same as the flags, which win over it:
  backbone = ["sit", "jit"]
  registers = ["dsr"]
  seeds = "0-2"
  [set]
  registers.denoiser.count = [4, 16, 36]
"""


def add(verbs: Any) -> None:
    """Add it to the other verbs."""
    from harness.launch_settings import add_launch_flags
    from harness.sweep_file import Flags

    sweep = verbs.add_parser(
        "sweep",
        help="run a grid of configurations: here, or on Slurm",
        usage=USAGE,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    grid = sweep.add_argument_group("the grid")
    grid.add_argument("--backbone", metavar="LIST", help="as for `run`, several: sit,jit")
    grid.add_argument("--registers", default="none", metavar="LIST", help="register presets: none,dsr (default: none)")
    grid.add_argument("--seeds", default="0", metavar="LIST", help="0,1,2 or 0-2 (default: 0)")
    add_changes(grid, "registers.denoiser.count=4,16,36 takes each value in turn (JSON lists and strings stay whole)")
    grid.add_argument("--alone", action="store_true", help="without the matched runs that have no registers")
    grid.add_argument("--name", help="what to call it (default: digits that are equal for equal grids)")
    add_conditions(sweep.add_argument_group("what all runs share"))
    add_carrying_out(sweep.add_argument_group("files and machine"))
    flags = Flags(sweep)
    grid.add_argument("--file", type=Path, metavar="FILE", help="read the grid from a TOML file")
    add_launch_flags(sweep)
    _add_dry_run(sweep)
    sweep.set_defaults(verb=_sweep, flags=flags, all_flags=Flags(sweep))
    what = sweep.add_subparsers(
        title="about a sweep that was begun", metavar="status|resume|cancel", prog="python -m harness sweep"
    )
    _add_status(what)
    _add_resume(what)
    _add_cancel(what)


def _add_status(what: Any) -> None:
    status = what.add_parser("status", help="how far its runs are")
    _add_place(status)
    status.add_argument("--watch", action="store_true", help="show it anew every two seconds, until nothing moves")
    status.add_argument("--json", action="store_true", help="for machines")
    status.set_defaults(verb=_status)


def _add_resume(what: Any) -> None:
    from harness.launch_settings import add_launch_flags

    # Whatever is not typed here leaves alone what was typed before the verb.
    resume = what.add_parser(
        "resume",
        help="start what is neither done, nor running, nor queued",
        description=RESUME,
        argument_default=argparse.SUPPRESS,
    )
    _add_place(resume)
    add_launch_flags(resume)
    _add_dry_run(resume)
    resume.set_defaults(verb=_resume)


RESUME = (
    "Start whatever is neither done, nor running, nor queued, as the sweep was launched before, but for what flags say "
    "now: with more time, say, or another launcher."
)


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the table of runs, and start nothing")


def _add_cancel(what: Any) -> None:
    cancel = what.add_parser("cancel", help="end what works on its runs, and leave out those that wait")
    _add_place(cancel)
    cancel.set_defaults(verb=_cancel)


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sweep_name", nargs="?", default=None, metavar="NAME", help="which sweep (default: the one begun last)"
    )
    parser.add_argument("--runs", default=argparse.SUPPRESS, metavar="DIR", help="where runs work (default: runs)")
    parser.add_argument(
        "--results", default=argparse.SUPPRESS, metavar="DIR", help="the records (default: where the sweep put them)"
    )


def _sweep(typed: argparse.Namespace) -> int:
    from harness import sweep_store
    from harness.launch_settings import asked_by
    from harness.resolve import parse_seeds
    from harness.sweep import expand, grid_of

    options = typed.flags.completed(typed, typed.file)
    if options.backbone is None:
        raise UserError("a sweep needs backbones", "add --backbone sit,jit, or --file grid.toml")
    asked = asked_by(options)
    launcher = _launcher(asked)
    request = request_of(options, guide_size=options.guide_size)
    found = expand(grid_of(request, parse_seeds(options.seeds), alone=options.alone), needs_data=not options.dry_run)
    runs, name = Path(options.runs), options.name or sweep_store.name_of(found.configs)
    sweep_store.require_free(runs, name, found.configs)
    for note in found.notes:
        say(note)
    sweep = sweep_store.Sweep(
        name=name,
        begun=datetime.now(UTC),
        command=tuple(sys.argv[1:]),
        launch=asked,
        runs=tuple(_kept(config, request) for config in found.configs),
    )
    _show_plan(sweep, launcher)
    return 0 if options.dry_run else _start(sweep, launcher, runs)


def _launcher(asked: "Asked") -> "Launcher":
    from harness.launch import launcher_of
    from harness.launch_settings import settings_of

    return launcher_of(settings_of(asked))


def _kept(config: "RunConfig", request: "Request") -> "RunConfig":
    """The run for any working directory, and for machines with other numbers of cores than this one."""
    from harness.executing import executed, from_anywhere

    is_said = request.execution.threads or any(change.startswith("execution.threads") for change in request.changes)
    return from_anywhere(config if is_said else executed(config, threads=0))


def _show_plan(sweep: "Sweep", launcher: "Launcher") -> None:
    from harness.sweep_estimate import Estimates, said_in_all
    from harness.sweep_launch import look
    from harness.sweep_status import statuses
    from harness.sweep_table import in_all, plan

    known = statuses(sweep.runs, look)
    execution = sweep.runs[0].execution
    asked = Estimates(Path(execution.results), on_gpu=execution.device != "cpu" and launcher.has_gpus)
    estimates = [asked.of(each.config) for each in known if not each.is_over]
    print(plan(known, estimates))
    print(f"sweep {sweep.name}, {in_all(known)}")
    if estimates:
        print(f"estimated: {said_in_all(estimates)}")
    sys.stdout.flush()


def _start(sweep: "Sweep", launcher: "Launcher", runs: Path) -> int:
    """Start what is lacking; the exit code says whether all that was worked on here has its record."""
    from harness.sweep_launch import look, start
    from harness.sweep_status import statuses
    from harness.sweep_table import in_all, table

    started = start(sweep, launcher, runs)
    if not started:
        print("nothing to start")
        return 0
    if launcher.returns_at_once:
        print(f"{counted(len(started), 'run')} submitted: python -m harness sweep status {sweep.name} --watch")
        return 0
    ended = statuses([each.config for each in started], look)
    without = [each for each in ended if not each.is_over]
    print(in_all(ended))
    if without:
        print(table(without, ended))
        print(f"python -m harness sweep resume {sweep.name}")
    return SOME_FAILED if without else 0


def _status(options: argparse.Namespace) -> None:
    from harness.sweep_launch import look
    from harness.sweep_status import counts, statuses

    sweep = _begun(options, "status")
    if options.watch and not options.json:
        from harness.sweep_watch import watch

        watch(sweep)
        return
    known = statuses(sweep.runs, look)
    if options.json:
        print_json({"name": sweep.name, "runs": [each.shown() for each in known], "counts": counts(known)})
        return
    from harness.sweep_table import in_all, table

    print(table(known, known))
    print(f"sweep {sweep.name}, {in_all(known)}")
    _name_others(options, sweep.name)


def _name_others(options: argparse.Namespace, shown: str) -> None:
    from harness.errors import first_few
    from harness.sweep_store import names

    others = [name for name in names(Path(options.runs or "runs")) if name != shown]
    if others and options.sweep_name is None:
        say(f"this is the sweep that was begun last; there are others: {first_few(others, 5)}")


def _resume(options: argparse.Namespace) -> int:
    from harness.launch_settings import asked_by

    begun = _begun(options, "resume")
    sweep = begun.model_copy(update={"begun": datetime.now(UTC), "launch": asked_by(options, begun.launch)})
    launcher = _launcher(sweep.launch)
    if options.dry_run:
        _show_plan(sweep, launcher)
        return 0
    return _start(sweep, launcher, Path(options.runs or "runs"))


def _cancel(options: argparse.Namespace) -> None:
    from harness.sweep_launch import cancel

    sweep = _begun(options, "cancel")
    cancelled = cancel(sweep)
    print(f"{counted(len(cancelled), 'run')} of sweep {sweep.name} cancelled" if cancelled else "nothing to cancel")


def _begun(options: argparse.Namespace, what: str) -> "Sweep":
    """The sweep that is meant.  Raises UserError for flags that say nothing about one that was begun."""
    from harness.launch_settings import LAUNCH_FLAGS
    from harness.sweep_store import load, placed

    allowed = PLACES | ({"--dry-run", *LAUNCH_FLAGS} if what == "resume" else set())
    idle = [flag for flag in options.all_flags.said(options) if flag not in allowed]
    if idle:
        raise UserError(
            f"`sweep {what}` is about a sweep that was begun: {', '.join(idle)} cannot be said of it",
            "leave that out; `resume` takes flags that say how its missing runs are launched",
        )
    runs = options.runs or "runs"
    return placed(load(Path(runs), options.sweep_name), runs, options.results)
