"""The verbs `neurons` and `stage1`, about encoders: names only, and no torch before it is needed."""

import argparse
from pathlib import Path
from typing import Any

from harness import probe_cli
from harness.arguments import add_changes, add_encoder, add_machine, positive, print_json, whole


def add(verbs: Any) -> None:
    """Add them to the other verbs."""
    _add_neurons(verbs)
    probe_cli.add(verbs)
    _add_stage1(verbs)


def _add_neurons(verbs: Any) -> None:
    neurons = verbs.add_parser("neurons", help="find the register neurons of an encoder, or list those that are known")
    what = neurons.add_subparsers(title="what", required=True, metavar="find|list")
    listed = what.add_parser("list", help="the lists that come with the project")
    listed.add_argument("--json", action="store_true", help="for machines")
    listed.set_defaults(verb=_list_neurons)
    find = what.add_parser(
        "find",
        help="rank neurons by how active they are where tokens have outlier norms",
        description="One pass over images: neurons that are active where tokens have outlier norms, best first, and "
        "what moving them into a test-time register does. That an encoder has no outliers is an answer too.",
    )
    add_encoder(find, required=True)
    _add_images(find)
    find.add_argument("--threshold", type=float, help="tokens above this norm are outliers (default: 3 medians)")
    find.add_argument("--layer", type=int, help="the layer of detection, -1 the last (default: the last with many)")
    find.add_argument(
        "--score",
        choices=("contribution", "activation"),
        default="contribution",
        help="what a neuron writes into outliers (default), or its activation there, as published",
    )
    find.add_argument("--lowest-layer", type=whole, default=0, help="no neurons below this layer (default 0)")
    find.add_argument("--highest-layer", type=int, default=-1, help="no neurons above this layer (default: the last)")
    find.add_argument("--top-k", type=positive, help="how many (default: the fewest that remove the outliers)")
    find.add_argument(
        "--sparsity", type=float, default=0.5, help="the least share of tokens on which a neuron is quiet (default 0.5)"
    )
    find.add_argument("--no-sparsity", action="store_true", help="neurons that are active everywhere count too")
    find.add_argument("--recursive", type=positive, default=1, metavar="N", help="N rounds (default 1)")
    find.add_argument("--as-published", action="store_true", help="as the code of DSR counts tokens and spares patches")
    find.add_argument("--out", type=Path, metavar="FILE", help="where the list goes (default: nowhere)")
    find.add_argument("--json", action="store_true", help="for machines")
    add_machine(find)
    find.set_defaults(verb=_find_neurons)


def _add_stage1(verbs: Any) -> None:
    stage1 = verbs.add_parser(
        "stage1",
        help="train a decoder on an encoder's latents, and gather their statistics",
        description="RAE's stage 1. What is made goes below RUNS/stage1, where runs find it. An interrupted training "
        "or pass goes on where it stopped.",
    )
    add_encoder(stage1, required=False)
    stage1.add_argument("--registers", default="none", help="encoder, encoder-recursive or none (the default)")
    stage1.add_argument("--neurons", metavar="LIST", help="register neurons: a list's name or file")
    stage1.add_argument("--task", default="digits", help="whose images (default: digits)")
    stage1.add_argument("--data", metavar="DIR", help="your images, for tasks that need some")
    stage1.add_argument("--statistics-only", action="store_true", help="no decoder")
    stage1.add_argument(
        "--import-statistics",
        metavar="FILE",
        type=Path,
        help="take the statistics of an official file, which you declare to be of this encoder with these registers",
    )
    stage1.add_argument("--discriminator", metavar="NAME_OR_DIR", help="the encoder that judges (default: DINO-S/8)")
    stage1.add_argument("--discriminator-weights", metavar="PATH", help="its weights, instead of the published ones")
    stage1.add_argument("--runs", default="runs", metavar="DIR", help="where it goes (default: runs)")
    add_changes(stage1, "recipe.epochs=4 --set latents.decoder=vit-b")
    add_machine(stage1)
    stage1.add_argument("--json", action="store_true", help="for machines")
    stage1.set_defaults(verb=_stage1)


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="DIR", help='a folder of images, or "digits"')
    parser.add_argument(
        "--images",
        type=positive,
        default=probe_cli.DEFAULT_IMAGES,
        metavar="N",
        help=f"at most N (default {probe_cli.DEFAULT_IMAGES})",
    )


def _list_neurons(options: argparse.Namespace) -> None:
    from harness.catalog import list_neurons
    from harness.text_table import columns

    found = list_neurons()
    if options.json:
        print_json(found)
        return
    rows = [
        [each["name"], f"{each['count']} neurons in {len(each['neurons'])} layers", each["source"]] for each in found
    ]
    print(columns(rows))


def _find_neurons(options: argparse.Namespace) -> None:
    from harness.files import require_writable
    from harness.finding import Wanted, find_neurons, keep
    from harness.finding_report import report
    from harness.machine import start

    wanted = Wanted(
        encoder=options.encoder,
        data=options.data,
        weights=options.encoder_weights,
        images=options.images,
        rounds=options.recursive,
        threshold=options.threshold,
        layer=options.layer,
        score=options.score,
        sparsity=None if options.no_sparsity else options.sparsity,
        lowest_layer=options.lowest_layer,
        highest_layer=options.highest_layer,
        top_k=options.top_k,
        as_published=options.as_published,
    )
    if options.out is not None:
        require_writable(options.out.parent)
    finding = find_neurons(wanted, start(options.device, options.threads))
    if options.out is not None:
        keep(finding, options.out)
    if options.json:
        print_json(finding.model_dump(mode="json"))
        return
    print(report(finding))
    if options.out is not None and finding.neurons is not None:
        print(f"\nlist      {options.out}\nuse it    python -m harness run ... --neurons {options.out}")


def _stage1(options: argparse.Namespace) -> None:
    from harness.preparing import Preparation, prepare
    from harness.resolve import Request
    from harness.spec import Execution

    places = {name: getattr(options, name) for name in Execution.model_fields if hasattr(options, name)}
    request = Request(
        backbone="rae-dit",
        registers=options.registers,
        task=options.task,
        neurons=options.neurons,
        changes=tuple(change for change in options.changes if not change.startswith("recipe.")),
        execution=Execution(**places),
    )
    asked = Preparation(
        recipe_changes=tuple(change for change in options.changes if change.startswith("recipe.")),
        statistics_only=options.statistics_only,
        import_statistics=options.import_statistics,
        discriminator=options.discriminator,
        discriminator_weights=options.discriminator_weights,
    )
    prepared = prepare(request, asked)
    if options.json:
        print_json(prepared.shown())
    else:
        print(prepared.report())
