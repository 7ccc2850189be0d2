"""The verbs about judging images, `eval` and `refs`: names only, and no torch before it is needed."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.arguments import add_machine, positive, print_json
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.evaluating import Setting

REFERENCES = "references"


def add_verbs(verbs: Any) -> None:
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
    what = evaluate.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", type=Path, metavar="DIR_OR_NPZ", help="a folder of PNGs, or ADM's .npz (arr_0)")
    what.add_argument("--run", metavar="ID", help="the samples of a finished run, with all that its record says")
    evaluate.add_argument(
        "--references", metavar="LIST", help="references by name: A,B (for 8 x 8 grey images: digits)"
    )
    evaluate.add_argument("--title", default="", help="what the images are, for people")
    evaluate.add_argument(
        "--declare",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="how the images were made: labels=balanced, uint8_rule=round, guidance=1.5@0.1-1.0,untuned ...",
    )
    evaluate.add_argument("--expect-images", type=positive, metavar="N", help="refuse any other number of images")
    evaluate.add_argument("--expect-classes", type=positive, metavar="N", help="refuse any other number of classes")
    evaluate.add_argument("--again", action="store_true", help="evaluate even if there is a result")
    evaluate.add_argument("--runs", default="runs", metavar="DIR", help="features on their way (default: runs)")
    evaluate.add_argument("--results", default="results", metavar="DIR", help="the records (default: results)")
    _add_extraction(evaluate)
    evaluate.set_defaults(verb=_eval)


def _add_refs(verbs: Any) -> None:
    refs = verbs.add_parser("refs", help="the sets that images are compared with: build, import, list, verify")
    what = refs.add_subparsers(title="what", required=True, metavar="build|import|list|verify")
    build = what.add_parser("build", help="make a reference of a folder of images")
    build.add_argument("images", type=Path, metavar="DIR", help="images, in folders of any depth")
    build.add_argument("--name", required=True, help="what the reference is called")
    build.add_argument("--extractor", required=True, metavar="LIST", help="extractors: NAME,NAME")
    build.add_argument("--split", default="unknown", help="train, validation ...")
    build.add_argument(
        "--crop", choices=("adm", "none"), default="adm", help="ADM's (default), or none: all as they are"
    )
    build.add_argument("--size", type=positive, default=256, help="of the crop (default 256)")
    build.add_argument("--limit", type=positive, metavar="N", help="at most N images, spread over all")
    build.add_argument(
        "--features", type=positive, default=10_000, metavar="N", help="of how many features are kept (default 10000)"
    )
    _add_extraction(build)
    build.set_defaults(verb=_build)
    taken = what.add_parser("import", help="take over published statistics")
    taken.add_argument("file", type=Path, metavar="FILE", help="an .npz file with mu and sigma")
    taken.add_argument("--name", required=True, help="what the reference is called")
    taken.add_argument("--kind", choices=("adm", "torch-fidelity", "clean-fid"), required=True, help="whose it is")
    taken.add_argument("--split", default="unknown", help="train, validation ...: as far as you know")
    taken.add_argument("--extractor", metavar="NAME", help="the one of ours that sees as the one that made it")
    _add_extraction(taken)
    taken.set_defaults(verb=_import)
    for name, help_ in (("list", "what there is"), ("verify", "hash every file again")):
        shown = what.add_parser(name, help=help_)
        if name == "verify":
            shown.add_argument("name", nargs="?", metavar="NAME", help="one reference (default: all)")
        _add_references(shown)
        shown.add_argument("--json", action="store_true", help="for machines")
        shown.set_defaults(verb=_list if name == "list" else _verify)


def _add_extraction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--extractor-weights",
        action="append",
        default=[],
        metavar="[EXTRACTOR=]PATH",
        help="the extractor's weights, instead of the published ones",
    )
    _add_references(parser)
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def _add_references(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--references-dir",
        type=Path,
        default=Path(REFERENCES),
        metavar="DIR",
        help=f"references (default: {REFERENCES})",
    )


def _eval(options: argparse.Namespace) -> None:
    from harness.declaring import parse

    declared = parse(options.declare)
    from harness.evaluating import Request, evaluate
    from harness.evaluation_report import report
    from harness.image_sets import Expected

    request = Request(
        images=options.images,
        references=_names(options.references),
        run_id=options.run,
        title=options.title,
        declared=declared,
        expected=Expected(options.expect_images, options.expect_classes),
    )
    evaluated = evaluate(request, _setting(options, Path(options.runs), Path(options.results)), again=options.again)
    if options.json:
        print_json(evaluated.record.model_dump(mode="json") | {"path": str(evaluated.path)})
    else:
        print(report(evaluated))


def _build(options: argparse.Namespace) -> None:
    from harness.reference_building import Wanted, build
    from harness.references import require_free

    setting = _setting(options)
    names = _names(options.extractor)
    for name in names:
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
    _show([build(wanted, setting.extractor(name), options.references_dir) for name in names], options)


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


def _setting(options: argparse.Namespace, runs: Path = Path("runs"), results: Path = Path("results")) -> "Setting":
    from harness.evaluating import Setting
    from harness.machine import start

    return Setting(
        runs=runs,
        results=results,
        references=options.references_dir,
        device=start(options.device, options.threads),
        weights=_weights(options.extractor_weights),
    )


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def _weights(words: Sequence[str]) -> dict[str, str]:
    """By extractor; "" where only a path was given."""
    from harness.extractors import TIMM, names

    given = {}
    for word in words:
        name, equals, path = word.partition("=")
        known = bool(equals) and (name in names() or name.startswith(TIMM))
        given.update({name: path} if known else {"": word})
    return given
