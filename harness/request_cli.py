"""The flags that say what a run is, for every verb that takes them: names only, and no torch."""

import argparse
from typing import Any

from harness.arguments import (
    add_changes,
    add_encoder,
    add_extractor_weights,
    add_machine,
    add_references_dir,
    add_text_encoder,
    names,
    positive,
)

BACKBONE_HELP = "a family (sit), an exact name (sit-xl-2), or one of a file of yours (path/to/file.py:mine)"


def add_configuration(parser: argparse.ArgumentParser, task: str | None = "digits") -> None:
    """One backbone with one register configuration."""
    parser.add_argument("--backbone", required=True, metavar="NAME", help=BACKBONE_HELP)
    parser.add_argument("--registers", default="none", help="a register preset (default: none)")
    add_conditions(parser, task)
    add_changes(parser, "registers.denoiser.count=16")


def add_conditions(parser: argparse.ArgumentParser, task: str | None = "digits") -> None:
    """What a backbone and its registers meet: images, a size, an encoder."""
    parser.add_argument("--task", default=task, help="what to learn (default: digits)")
    parser.add_argument("--size", help="the size of a family: xl-2 (default: what the task recommends)")
    parser.add_argument("--data", metavar="DIR", help="your images, for tasks that need some")
    add_encoder(parser, required=False)
    parser.add_argument("--neurons", metavar="LIST", help="register neurons: a list by name or file (`neurons find`)")
    add_text_encoder(parser)


def add_carrying_out(parser: argparse.ArgumentParser) -> None:
    """The files that a run reads besides its images, the machine's part, and where everything goes."""
    parser.add_argument("--weights", metavar="PATH_OR_HUB_ID", help="measure a released model instead of training one")
    parser.add_argument(
        "--guide", metavar="PATH_OR_HUB_ID", help="guide by this weaker model of the family: autoguidance"
    )
    parser.add_argument("--guide-size", metavar="SIZE", help="the size of the guide (default: the run's own)")
    parser.add_argument(
        "--registered-weights", metavar="PATH", help="weights of the same encoder trained with registers, for dsr"
    )
    parser.add_argument("--decoder", metavar="FILE", help="RAE: the decoder of the encoder's latents")
    parser.add_argument("--statistics", metavar="FILE", help="RAE: the latents' statistics, as `stage1` writes them")
    parser.add_argument(
        "--references",
        type=names,
        default=(),
        metavar="LIST",
        help="judge the samples against these too: A,B (`refs list`)",
    )
    add_references_dir(parser)
    add_extractor_weights(parser)
    add_machine(parser)
    parser.add_argument("--compile", dest="compiled", action="store_true", help="train and sample under torch.compile")
    parser.add_argument(
        "--accumulate", type=positive, default=1, metavar="N", help="take each batch in N pieces, for memory's sake"
    )
    parser.add_argument(
        "--sharding",
        choices=("ddp", "fsdp"),
        default="ddp",
        help="what several processes share: the batch, or with fsdp the weights too (default: ddp)",
    )
    add_runs(parser)
    add_results(parser)


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Where runs work."""
    parser.add_argument("--runs", default="runs", metavar="DIR", help="checkpoints and samples (default: runs)")


def add_results(parser: argparse.ArgumentParser) -> None:
    """Where records are."""
    parser.add_argument("--results", default="results", metavar="DIR", help="the records (default: results)")


def request_of(options: argparse.Namespace, **further: Any) -> Any:
    """The `harness.resolve.Request` that flags make; `further` are fields of it that not every verb has."""
    from harness.resolve import Request
    from harness.spec import Execution

    places = {name: getattr(options, name) for name in Execution.model_fields if hasattr(options, name)}
    return Request(
        backbone=options.backbone,
        registers=options.registers,
        neurons=options.neurons,
        task=options.task,
        size=options.size,
        changes=tuple(options.changes),
        execution=Execution(**places),
        **further,
    )
