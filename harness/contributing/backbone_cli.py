"""The verbs new and check: names only, and no torch before it is needed."""

import argparse
from pathlib import Path
from typing import Any

from harness.arguments import add_changes, add_machine, names
from harness.request_cli import add_runs

BROKEN = 1


def add(verbs: Any) -> None:
    """Declare them."""
    _add_new(verbs)
    _add_check(verbs)


def _add_new(verbs: Any) -> None:
    new = verbs.add_parser(
        "new",
        help="write the files of a new backbone, which run as they are",
        description="Write baselines/NAME.py and its network, a small diffusion transformer that runs as it is; "
        "FILL IN marks what is yours. With --local it is one file, anywhere, which --backbone FILE.py:NAME runs.",
    )
    new.add_argument("name", metavar="NAME", help="what the backbone is called: small letters, digits and dashes")
    new.add_argument("--local", metavar="FILE.py", type=Path, help="one file outside the repository instead")
    new.set_defaults(verb=_new)


def _add_check(verbs: Any) -> None:
    check = verbs.add_parser(
        "check",
        help="try a backbone: its promises, its costs, and a rehearsal on the digits",
        description="Try what every backbone promises, with every register preset; count parameters and GFLOPs; learn "
        "the digits with and without registers, in few steps; and write a report in Markdown for the pull request. An "
        "interrupted check goes on from what it found, kept below RUNS/check. Exits with 1 where a promise is broken.",
    )
    check.add_argument("backbone", metavar="NAME", help="a family (sit), or one of a file of yours (path/file.py:mine)")
    check.add_argument(
        "--registers",
        type=names,
        default=("denoiser",),
        metavar="LIST",
        help="the presets that learn the digits beside none (default: denoiser)",
    )
    check.add_argument("--quick", action="store_true", help="none and these presets alone, and no training")
    check.add_argument("--out", metavar="FILE", type=Path, help="write the report there (default: print it)")
    add_changes(check, "recipe.steps=500 (of the costs and the digits, not of the promises)")
    add_machine(check)
    add_runs(check)
    check.set_defaults(verb=_check)


def _new(options: argparse.Namespace) -> None:
    from harness.contributing.new import write_backbone

    written = write_backbone(options.name, options.local)
    named = options.name if options.local is None else f"{options.local}:{options.name}"
    for path in written:
        print(f"wrote {path}")
    print(
        f"\npython -m harness run --backbone {named}    # it learns the digits as it is"
        f"\npython -m harness check {named} --quick     # after each change: seconds"
        f"\npython -m harness check {named} --out check.md    # before the pull request: minutes"
        "\n\nThen fill in what FILL IN marks."
    )


def _check(options: argparse.Namespace) -> int:
    from harness.files import require_place, write_text
    from harness.spec import Execution

    if options.out is not None:
        require_place(options.out)
    from harness.contributing.check import NONE, Asked, check
    from harness.contributing.check_report import report, verdict

    checked = check(
        Asked(
            backbone=options.backbone,
            presets=tuple(preset for preset in options.registers if preset != NONE),
            changes=tuple(options.changes),
            is_quick=options.quick,
            execution=Execution(device=options.device, threads=options.threads, runs=options.runs),
        )
    )
    if options.out is None:
        print(report(checked), end="")
    else:
        write_text(options.out, report(checked))
        print(f"{verdict(checked)}: {options.out}")
    return 0 if checked.passes else BROKEN
