"""The verbs and flags of `python -m harness`: names only, no logic, and no torch before it is needed."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from harness import __version__, bench_cli, encoder_cli, evaluation_cli, pipeline_cli, sweep_cli, torchrun
from harness.arguments import print_json, whole
from harness.contributing import cli as contributing_cli
from harness.errors import UserError, unknown_name
from harness.request_cli import add_carrying_out, add_configuration, add_results, request_of
from harness.signals import terminable

BAD_INPUT, INTERRUPTED = 2, 130


class _Parser(argparse.ArgumentParser):
    """argparse whose errors look like every other error here."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, f"`{self.prog} --help` shows what can be said")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0, 2 for a mistake of the user's, 130 when interrupted, or the verb's own.

    A sweep that worked here ends with 1 where some of its runs failed.  SIGTERM and SIGHUP raise SystemExit(143).
    """
    code = 0
    try:
        options = _parser().parse_args(arguments)
        with terminable():
            code = options.verb(options) or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m harness", description="Do register tokens help a diffusion transformer?")
    parser.add_argument("--version", action="version", version=f"dsr-bench {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_run(verbs)
    sweep_cli.add(verbs)
    _add_list(verbs)
    _add_describe(verbs)
    _add_import(verbs)
    _add_index(verbs)
    _add_table(verbs)
    _add_claims(verbs)
    _add_board(verbs)
    bench_cli.add(verbs)
    encoder_cli.add(verbs)
    evaluation_cli.add(verbs)
    contributing_cli.add(verbs)
    return parser


def _add_run(verbs: Any) -> None:
    run = verbs.add_parser(
        "run",
        help="train, sample, measure and record one configuration",
        description="Train a backbone with a register configuration, sample from it, measure, and append a record. "
        "An interrupted run goes on where it stopped; a finished one is shown again. With several GPUs: "
        "`torchrun --nproc-per-node N -m harness run ...`; the batch stays the recipe's.",
    )
    add_configuration(run)
    seeds = run.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=whole, default=0, help="training and sampling seed (default 0)")
    seeds.add_argument(
        "--seeds", metavar="LIST", help="several runs, 0,1,2 or 0-2, each beside its matched run without registers"
    )
    run.add_argument("--alone", action="store_true", help="with --seeds: without the matched runs")
    add_carrying_out(run)
    pipeline_cli.add_flags(run)
    run.add_argument("--again", action="store_true", help="run even if there is a result: adds a further record")
    run.add_argument("--dry-run", action="store_true", help="print the resolved configuration as JSON, and stop")
    run.add_argument("--json", action="store_true", help="print the record as JSON")
    run.set_defaults(verb=_run, **torchrun.told())


def _add_list(verbs: Any) -> None:
    kinds = verbs.add_parser("list", help="what there is: backbones, registers, tasks, encoders, extractors, metrics")
    kinds.add_argument("what", nargs="?", metavar="KIND", help="one of them (default: all)")
    kinds.add_argument("--json", action="store_true", help="for machines")
    kinds.set_defaults(verb=_list)


def _add_describe(verbs: Any) -> None:
    describe = verbs.add_parser(
        "describe",
        help="parameters, tokens and GFLOPs of a backbone with registers",
        description="Count parameters, tokens and GFLOPs (2 x multiply-adds, one forward pass, batch 1). An exact "
        "name such as dit-xl-2 is described at its official input unless --task is given.",
    )
    add_configuration(describe, task=None)
    describe.add_argument("--weights", metavar="PATH_OR_HUB_ID", help="check that a released model fits")
    describe.add_argument("--json", action="store_true", help="for machines")
    describe.set_defaults(verb=_describe)


def _add_import(verbs: Any) -> None:
    weights = verbs.add_parser(
        "import-weights",
        help="rewrite a released model under our names, or show how its names map to ours",
        description="Read an official DiT, SiT, JiT, RAE or DSR checkpoint, or a diffusers folder, choose its EMA, and "
        "write it as one safetensors file under our names. No code in the file is run.",
    )
    weights.add_argument("weights", metavar="PATH_OR_HUB_ID", help="a file, a folder, or a model on the hub")
    add_configuration(weights, task=None)
    weights.add_argument("--dry-run", action="store_true", help="print what becomes of each key, and write nothing")
    weights.add_argument("--out", metavar="FILE", type=Path, help="where the safetensors file goes")
    weights.add_argument("--json", action="store_true", help="for machines")
    weights.set_defaults(verb=_import)


def _add_index(verbs: Any) -> None:
    index = verbs.add_parser(
        "index", help="rebuild the database from all records that `validate` accepts, and name the others"
    )
    index.add_argument("--json", action="store_true", help="for machines")
    add_results(index)
    index.set_defaults(verb=_index)


def _add_table(verbs: Any) -> None:
    table = verbs.add_parser("table", help="a task's measured results as a Markdown table")
    table.add_argument("--task", default="digits", help="the task (default: digits)")
    table.add_argument("--write", metavar="FILE", type=Path, help="replace the table between this file's markers")
    add_results(table)
    table.set_defaults(verb=_table)


def _add_claims(verbs: Any) -> None:
    claims = verbs.add_parser(
        "claims",
        help="what is claimed in publications, and what the runs here say about it",
        description="One row for each published claim, task and comparability key: confirmed, contradicted, "
        "inconclusive or not yet measured, with the interval and the records that it rests on.",
    )
    claims.add_argument("--json", action="store_true", help="for machines")
    add_results(claims)
    claims.set_defaults(verb=_claims)


def _add_board(verbs: Any) -> None:
    board = verbs.add_parser("board", help="open the leaderboard in a browser, or write it as files")
    board.add_argument("--port", type=whole, default=8501, help="where it listens (default 8501)")
    board.add_argument("--address", default="localhost", help="whom it listens to (default: this machine alone)")
    board.add_argument("--headless", action="store_true", help="do not open a browser")
    board.add_argument("--export", metavar="DIR", type=Path, help="write it as plain HTML and Parquet, and stop")
    add_results(board)
    board.set_defaults(verb=_board)


def _run(options: argparse.Namespace) -> None:
    if pipeline_cli.is_pipeline(options):
        pipeline_cli.run(options)
        return
    from harness.arms import arms_of
    from harness.resolve import parse_seeds

    seeds = parse_seeds(options.seeds) if options.seeds else [options.seed]
    request = request_of(options, guide_size=options.guide_size)
    configs = arms_of(request, seeds, alone=options.alone, needs_data=not options.dry_run)
    if options.dry_run:
        from harness.describe import shown_run

        shown = [shown_run(config) for config in configs]
        print_json(shown[0] if len(shown) == 1 else shown)
        return
    from harness.distributed import joined
    from harness.report import report, report_of_seeds
    from harness.run import follow, run

    outcomes = []
    with joined(request.execution) as world:
        if not world.is_first:
            for config in configs:
                follow(config, world)
            return
        for config in configs:
            outcomes.append(run(config, world, again=options.again))
            if not options.json:
                print(report(outcomes[-1]), flush=True)
    if not options.json and len(seeds) > 1:
        print("\n".join(report_of_seeds(outcomes)))
    if options.json:
        shown = [o.record.model_dump(mode="json") | {"path": str(o.path)} for o in outcomes]
        print_json(shown[0] if len(shown) == 1 else shown)


def _list(options: argparse.Namespace) -> None:
    from harness import catalog
    from harness.text_table import columns

    lists = {
        "backbones": catalog.list_backbones,
        "registers": catalog.list_registers,
        "tasks": catalog.list_tasks,
        "encoders": catalog.list_encoders,
        "extractors": catalog.list_extractors,
        "metrics": catalog.list_metrics,
    }
    if options.what and options.what not in lists:
        raise unknown_name("list", options.what, lists)
    chosen = [options.what] if options.what else list(lists)
    found = {name: lists[name]() for name in chosen}
    if options.json:
        print_json(found[options.what] if options.what else found)
        return
    for name, entries in found.items():
        print(name)
        print(columns([_row(entry) for entry in entries]))


def _row(entry: dict[str, Any]) -> list[str]:
    if "sizes" not in entry:
        return [f"  {entry['name']}", entry["title"]]
    native = {count for count in entry["native_tokens"].values() if count}
    note = f"  (with {max(native)} in-context tokens of its own)" if native else ""
    return [f"  {entry['name']}", " ".join(entry["sizes"]) + note]


def _describe(options: argparse.Namespace) -> None:
    from harness.resolve import resolve_network

    config = resolve_network(request_of(options))
    from harness.describe import describe

    facts = describe(config)
    if options.weights:
        from harness.build import identify

        facts["weights"] = identify(config, options.weights).model_dump()
    if options.json:
        print_json(facts)
        return
    from harness.text_table import columns

    tokens = ("tokens", "patch_tokens", "register_tokens", "native_tokens", "text_tokens")
    keys = ("parameters", "trainable_parameters", *tokens)
    rows = [["backbone", facts["backbone"]], ["source", facts["source"]]]
    rows += [["input", " x ".join(map(str, facts["input"]))]]
    rows += [[key, f"{facts[key]:,}"] for key in keys]
    rows += [["weights", "{name} fits ({entry})".format(**facts["weights"])]] if "weights" in facts else []
    rows += [["gflops", f"{facts['gflops']:.3f}"], ["gmacs", f"{facts['gmacs']:.3f}"]]
    print(columns(rows))


def _import(options: argparse.Namespace) -> None:
    from harness.resolve import resolve_network

    source, options.weights = options.weights, None
    config = resolve_network(request_of(options))
    from harness.importing import import_weights

    imported = import_weights(config, source, None if options.dry_run else options.out)
    if options.json:
        print_json(imported.shown())
    else:
        print(imported.report())
    imported.require_fit()


def _index(options: argparse.Namespace) -> None:
    from harness.contributing.indexing import index_validated

    index = index_validated(Path(options.results))
    problems = [{"path": str(problem.path), "reason": problem.reason} for problem in index.problems]
    if options.json:
        print_json({"database": str(index.database), "records": index.records, "problems": problems})
    else:
        for problem in problems:
            print(f"left out: {problem['path']}: {problem['reason']}", file=sys.stderr)
        print(f"{index.records} records, {len(problems)} files left out: {index.database}")
    if problems:
        raise UserError(
            f"{len(problems)} files below {options.results} are no valid records: the database was built without them",
            "mend them or move them away; none was changed",
        )


def _table(options: argparse.Namespace) -> None:
    from leaderboard.table import markdown, write_between_markers

    text = markdown(Path(options.results), options.task)
    if options.write:
        write_between_markers(options.write, text, options.task)
    else:
        print(text)


def _claims(options: argparse.Namespace) -> None:
    from leaderboard.claims import judge
    from leaderboard.claims_report import machine_readable, report

    published, judgements = judge(Path(options.results))
    print_json(machine_readable(published, judgements)) if options.json else print(report(published, judgements))


def _board(options: argparse.Namespace) -> None:
    if options.export:
        from leaderboard.export import export

        print(export(Path(options.results), options.export))
        return
    from harness.board import serve

    serve(Path(options.results), port=options.port, address=options.address, headless=options.headless)
