"""The verbs submit and withdraw."""

import argparse
from pathlib import Path
from typing import Any

from harness.arguments import add_references_dir
from harness.request_cli import add_results, add_runs


def add(verbs: Any) -> None:
    """Declare them."""
    _add_submit(verbs)
    _add_withdraw(verbs)


def _add_submit(verbs: Any) -> None:
    submit = verbs.add_parser(
        "submit",
        help="put records on a branch that is ready for a pull request",
        description="Take records with their sample grids, norm maps and moments, check them as CI does, and commit "
        "them on a new branch. Your checkout, its index and its branches stay as they are.",
    )
    submit.add_argument("run_ids", nargs="+", metavar="RUN_ID", help="the runs: their ids stand on the board")
    submit.add_argument("--branch", metavar="NAME", help="the new branch (default: results/BACKBONE-REGISTERS-RUN_ID)")
    moments = submit.add_mutually_exclusive_group()
    moments.add_argument(
        "--with-moments",
        dest="moments",
        action="store_const",
        const="with",
        default="where there are some",
        help="insist on the moments, from which anybody can recompute the distances (default: where there are some)",
    )
    moments.add_argument(
        "--without-moments", dest="moments", action="store_const", const="without", help="leave the moments out"
    )
    submit.add_argument("--dirty", action="store_true", help="also records of code with uncommitted changes")
    add_references_dir(submit)
    add_runs(submit)
    add_results(submit)
    submit.set_defaults(verb=_submit)


def _add_withdraw(verbs: Any) -> None:
    withdraw = verbs.add_parser(
        "withdraw",
        help="take a record back, with a reason",
        description="Write a file that says why a record no longer counts. The record itself stays where it is. One "
        "that was never merged needs none: it is deleted.",
    )
    withdraw.add_argument("record", metavar="RECORD", help="the record's file, or the id of its run")
    withdraw.add_argument("--reason", required=True, metavar="TEXT", help="what is wrong with it, for those who ask")
    add_results(withdraw)
    withdraw.set_defaults(verb=_withdraw)


def _submit(options: argparse.Namespace) -> None:
    from harness.contributing.candidates import Places
    from harness.contributing.submission import Wish, submit

    wish = Wish(
        run_ids=options.run_ids,
        places=Places(Path(options.results), Path(options.runs)),
        references=options.references_dir,
        branch=options.branch,
        moments=options.moments,
        allow_dirty=options.dirty,
    )
    print(submit(wish, Path.cwd()).report())


def _withdraw(options: argparse.Namespace) -> None:
    from harness.contributing.candidates import published_record, require_merged
    from harness.withdrawals import withdraw

    results = Path(options.results)
    record = published_record(results, options.record)
    require_merged(results, record)
    tombstone = withdraw(results, record, options.reason)
    print(f"withdrawn {record}\nfile      {tombstone}")
    print(f"next      git add {tombstone}, commit it alone on a branch, and open a pull request that says why")
