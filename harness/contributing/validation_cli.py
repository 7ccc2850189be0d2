"""The verb validate."""

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.arguments import print_json
from harness.contributing.verdict import Verdict
from harness.request_cli import add_results

REFUSED = 2


def add(verbs: Any) -> None:
    """Declare it."""
    validate = verbs.add_parser(
        "validate",
        help="check results as a pull request's are checked",
        description="Check files of the results: schema, place, ranges, pictures, duplicates; parameters, GFLOPs and "
        "distances are computed again. Without PATH all of them, and that committed ones stayed as they were. No code "
        "of a submission is run. Ends with 2 where something is refused.",
    )
    validate.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files or folders below the results")
    validate.add_argument(
        "--base", metavar="REF", help="what committed results are compared with (default: origin/main or main)"
    )
    validate.add_argument("--json", action="store_true", help="for machines")
    validate.add_argument(
        "--references",
        type=Path,
        default=Path("references"),
        metavar="DIR",
        help="where references lie (default: references)",
    )
    add_results(validate)
    validate.set_defaults(verb=_validate)


def _validate(options: argparse.Namespace) -> int:
    from harness.contributing.validation import validate

    results = Path(options.results)
    verdict = validate(options.paths, results, base=options.base, references=options.references)
    if options.json:
        print_json(_shown(verdict, results))
    else:
        _print(verdict, results)
    return REFUSED if verdict.faults else 0


def _shown(verdict: Verdict, results: Path) -> dict[str, Any]:
    """For machines: paths with their folder, texts in ASCII."""
    faults = [
        {"path": str(results / fault.path), "rule": fault.rule, "problem": fault.problem, "remedy": fault.remedy}
        for fault in verdict.faults
    ]
    remarks = [{"path": str(results / remark.path), "says": remark.says} for remark in verdict.remarks]
    return {
        "accepted": not verdict.faults,
        "checked": len(verdict.checked),
        "faults": faults,
        "remarks": remarks,
    }


def _print(verdict: Verdict, results: Path) -> None:
    for fault in verdict.faults:
        print(f"refused: {results}/{fault}", file=sys.stderr)
    for remark in verdict.remarks:
        print(f"remark: {results}/{remark}")
    refused = len({fault.path for fault in verdict.faults})
    print(f"{len(verdict.checked)} files checked, {refused} refused")
