"""The verbs about judging images, `eval` and `refs`: names only, and no torch before it is needed."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import geneval_cli
from harness.arguments import add_extractor_weights, add_machine, add_references_dir, names, positive, print_json
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.judging import Setting


def add(verbs: Any) -> None:
    """Add them to the other verbs."""
    _add_eval(verbs)
    _add_refs(verbs)


def _add_eval(verbs: Any) -> None:
    evaluate = verbs.add_parser(
        "eval",
        help="score images that anybody's code made",
        description="Look through images, extract their features and compare them with references, into a record of "
        "its own kind. An interrupted evaluation goes on where it stopped; a finished one is shown again.",
    )
    # Which of the two is required is not for argparse to say: `eval geneval` takes neither here.
    what = evaluate.add_mutually_exclusive_group()
    what.add_argument(
        "--images", type=Path, metavar="DIR_OR_NPZ", help="a folder of PNG or JPEG, an .npz with arr_0, or an .npy"
    )
    what.add_argument("--run", metavar="ID", help="the samples of a finished run, with all that its record says")
    evaluate.add_argument(
        "--references",
        type=names,
        default=(),
        metavar="LIST",
        help="references by name: A,B (for 8 x 8 grey images: digits)",
    )
    evaluate.add_argument("--title", default="", help="what the images are, for people")
    evaluate.add_argument(
        "--declare",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="how the images were made: labels=balanced, uint8_rule=round, weights=ema, guidance=1.5@0.1-1.0,untuned, "
        "task, data, resize, seed, steps, sampler, nfe, precision, decoder_sha256 ...; what is not said stays unknown",
    )
    evaluate.add_argument("--expect-images", type=positive, metavar="N", help="refuse any other number of images")
    evaluate.add_argument("--expect-classes", type=positive, metavar="N", help="refuse any other number of classes")
    evaluate.add_argument(
        "--again", action="store_true", help="evaluate even if there is a result: adds a further record"
    )
    evaluate.add_argument(
        "--runs",
        default="runs",
        metavar="DIR",
        help="features on their way, and where --run finds the run (default: runs)",
    )
    evaluate.add_argument("--results", default="results", metavar="DIR", help="the records (default: results)")
    _add_extraction(evaluate)
    evaluate.set_defaults(verb=_eval)
    geneval_cli.add(evaluate.add_subparsers(title="images made for prompts", metavar="[geneval]"))


def _add_refs(verbs: Any) -> None:
    refs = verbs.add_parser(
        "refs",
        help="the sets that images are compared with: build, import, list, verify",
        description="References are statistics of real images, one for each extractor. They lie in --references-dir.",
    )
    what = refs.add_subparsers(title="what", required=True, metavar="build|import|list|verify")
    build = what.add_parser("build", help="make a reference of a folder of images")
    build.add_argument("images", type=Path, metavar="DIR", help="images, in folders of any depth")
    build.add_argument("--name", required=True, help="what the reference is called")
    build.add_argument(
        "--extractor", required=True, type=names, metavar="LIST", help="extractors of `list extractors`: NAME,NAME"
    )
    build.add_argument("--split", default="unknown", help="train, validation ...")
    build.add_argument(
        "--crop", choices=("adm", "none"), default="adm", help="ADM's (default), or none: all as they are"
    )
    build.add_argument(
        "--size", type=positive, default=256, help="side of ADM's crop (default 256; no effect with --crop none)"
    )
    build.add_argument("--limit", type=positive, metavar="N", help="at most N images, spread over all")
    build.add_argument(
        "--features",
        type=positive,
        default=10_000,
        metavar="N",
        help="keep the features of at most N images, for precision, recall and KID (default 10000)",
    )
    _add_extraction(build)
    build.set_defaults(verb=_build)
    taken = what.add_parser("import", help="take over published statistics")
    taken.add_argument("file", type=Path, metavar="FILE", help="an .npz file with mu and sigma")
    taken.add_argument("--name", required=True, help="what the reference is called")
    taken.add_argument(
        "--kind",
        choices=("adm", "torch-fidelity", "clean-fid"),
        required=True,
        help="adm: ADM's VIRTUAL_*.npz; torch-fidelity: JiT's; clean-fid: clean-fid's",
    )
    taken.add_argument("--split", default="unknown", help="train, validation ...: as far as you know")
    taken.add_argument(
        "--extractor",
        metavar="NAME",
        help="ours that equals theirs (default: inception-legacy-tensorflow, -torch-fidelity or -clean, by --kind)",
    )
    _add_extraction(taken)
    taken.set_defaults(verb=_import)
    listed = what.add_parser("list", help="what there is")
    add_references_dir(listed)
    listed.add_argument("--json", action="store_true", help="for machines")
    listed.set_defaults(verb=_list)
    verified = what.add_parser("verify", help="hash every file again, and say what is inside")
    verified.add_argument("name", nargs="?", metavar="NAME", help="one reference (default: all)")
    add_references_dir(verified)
    verified.add_argument("--json", action="store_true", help="for machines")
    verified.set_defaults(verb=_verify)


def _add_extraction(parser: argparse.ArgumentParser) -> None:
    add_extractor_weights(parser)
    add_references_dir(parser)
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def _eval(options: argparse.Namespace) -> None:
    if options.images is None and options.run is None:
        raise UserError(
            "one of the arguments --images --run is required", "`python -m harness eval --help` shows what can be said"
        )
    from harness.declaring import parse

    declared = parse(options.declare)
    from harness.database import rebuild
    from harness.evaluating import Folders, Request, evaluate
    from harness.evaluation_report import report
    from harness.image_sets import Expected

    request = Request(
        images=options.images,
        references=options.references,
        run_id=options.run,
        title=options.title,
        declared=declared,
        expected=Expected(options.expect_images, options.expect_classes),
    )
    folders = Folders(Path(options.runs), Path(options.results))
    evaluated = evaluate(request, folders, _setting(options), again=options.again)
    if evaluated.is_new:
        rebuild(folders.results)
    if options.json:
        print_json(evaluated.record.model_dump(mode="json") | {"path": str(evaluated.path)})
    else:
        print(report(evaluated))


def _build(options: argparse.Namespace) -> None:
    from harness.reference_building import Wanted, build
    from harness.references import require_free

    setting = _setting(options)
    for name in options.extractor:
        require_free(options.references_dir, options.name, name)
    wanted = Wanted(
        folder=options.images,
        name=options.name,
        split=options.split,
        crop=options.crop,
        size=options.size,
        limit=options.limit,
        features=options.features,
    )
    _show([build(wanted, setting.extractor(name), options.references_dir) for name in options.extractor], options)


def _import(options: argparse.Namespace) -> None:
    from harness.reference_import import Published, import_statistics

    published = Published(options.file, options.kind, options.name, options.split, options.extractor)
    _show([import_statistics(published, options.references_dir, _setting(options).extractor)], options)


def _list(options: argparse.Namespace) -> None:
    from harness.references import list_references

    _show(list_references(options.references_dir), options)


def _verify(options: argparse.Namespace) -> None:
    from harness.evaluation_report import reference_rows
    from harness.references import verify

    checked = verify(options.references_dir, options.name)
    if options.json:
        print_json([each.manifest.model_dump(mode="json") | {"problem": each.problem} for each in checked])
    elif checked:
        print(reference_rows(checked))
        for each in checked:
            print("\n".join(f"{each.manifest.stem}: {line}" for line in (each.manifest.source, *each.manifest.notes)))
    if broken := [each for each in checked if each.problem]:
        raise UserError(
            f"{len(broken)} of {len(checked)} references are not what they were", "build or import them anew"
        )


def _show(manifests: Sequence[Any], options: argparse.Namespace) -> None:
    from harness.evaluation_report import reference_rows
    from harness.references import Checked

    if options.json:
        print_json([manifest.model_dump(mode="json") for manifest in manifests])
    else:
        print(reference_rows([Checked(manifest) for manifest in manifests]))


def _setting(options: argparse.Namespace) -> "Setting":
    from harness.extractors import weights_by_extractor
    from harness.judging import Setting
    from harness.machine import start

    return Setting(
        references=options.references_dir,
        device=start(options.device, options.threads),
        weights=weights_by_extractor(options.extractor_weights),
    )
