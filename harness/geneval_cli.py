"""The verb `eval geneval`: names only, and no torch before it is needed."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.arguments import add_detector_size, names, print_json, whole
from harness.errors import UserError

# What `eval` takes, and has no meaning for prompts: its flag, its name among the options, and what it is when not said.
_OF_FEATURES: Sequence[tuple[str, str, object]] = (
    ("--run", "run", None),
    ("--expect-images", "expect_images", None),
    ("--expect-classes", "expect_classes", None),
)


def add(kinds: Any) -> None:
    """Add it to `eval`.  What both take may stand before the word or behind it, and has `eval`'s default.

    What may be said several times has a place of its own here, since argparse would forget what stands before.
    """
    geneval = kinds.add_parser(
        "geneval",
        help="which images show what their prompts ask for: a folder in GenEval's layout",
        description="Judge images by GenEval's rules (arXiv 2310.11513): a Mask2Former finds objects, a CLIP names "
        "their colours. The folder is laid out as the official tool wants it: 00000/metadata.jsonl and "
        "00000/samples/0000.png ... for each prompt. A folder with missing or broken images is refused. An "
        "interrupted evaluation goes on where it stopped; a finished one is shown again.",
        argument_default=argparse.SUPPRESS,
    )
    geneval.add_argument("--images", type=Path, metavar="DIR", help="the folder")
    geneval.add_argument(
        "--detector",
        default=None,
        metavar="HUB_ID_OR_DIR",
        help="a Mask2Former of transformers for COCO's instances (default: "
        "facebook/mask2former-swin-small-coco-instance)",
    )
    add_detector_size(geneval)
    geneval.add_argument(
        "--clip",
        default=None,
        metavar="HUB_ID_OR_DIR",
        help="a CLIP of transformers (default: openai/clip-vit-large-patch14)",
    )
    geneval.add_argument(
        "--clip-score",
        action="store_true",
        default=False,
        help="also the CLIPScore of images and prompts, by the same CLIP",
    )
    geneval.add_argument(
        "--references", type=names, metavar="LIST", help="also distances to references by name, such as FID: A,B"
    )
    geneval.add_argument("--references-dir", type=Path, metavar="DIR", help="references (default: references)")
    geneval.add_argument(
        "--extractor-weights",
        action="append",
        dest="weights_here",
        default=[],
        metavar="[EXTRACTOR=]PATH",
        help="the weights of a reference's extractor, instead of the published ones",
    )
    geneval.add_argument("--title", help="what the images are, for people")
    geneval.add_argument(
        "--declare",
        action="append",
        dest="declared_here",
        default=[],
        metavar="FIELD=VALUE",
        help="how the images were made: see `eval --help`",
    )
    geneval.add_argument("--again", action="store_true", help="evaluate even if there is a result")
    geneval.add_argument("--runs", metavar="DIR", help="verdicts on their way (default: runs)")
    geneval.add_argument("--results", metavar="DIR", help="the records (default: results)")
    geneval.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    geneval.add_argument("--threads", type=whole, help="CPU threads (default: every core of this process)")
    geneval.add_argument("--json", action="store_true", help="for machines")
    geneval.set_defaults(verb=_geneval, detector_size=None)


def _geneval(options: argparse.Namespace) -> None:
    if options.images is None:
        raise UserError("GenEval judges a folder of images", "add --images DIR")
    for flag, name, unsaid in _OF_FEATURES:
        if getattr(options, name) != unsaid:
            raise UserError(f"{flag} is of no use to `eval geneval`", "leave it out, or leave geneval out")
    from harness.declaring import parse

    declared = parse([*options.declare, *options.declared_here])
    from harness.database import rebuild
    from harness.evaluating import Folders
    from harness.extractors import weights_by_extractor
    from harness.geneval_evaluating import Request, evaluate_geneval
    from harness.geneval_judging import JudgeNames
    from harness.geneval_report import report
    from harness.judging import Setting
    from harness.machine import start

    usual = JudgeNames()
    judge = JudgeNames(
        options.detector or usual.detector, options.clip or usual.clip, options.detector_size or usual.size
    )
    folders = Folders(Path(options.runs), Path(options.results))
    request = Request(
        options.images,
        judge,
        clip_score=options.clip_score,
        references=options.references,
        title=options.title,
        declared=declared,
    )
    setting = Setting(
        references=options.references_dir,
        device=start(options.device, options.threads),
        weights=weights_by_extractor([*options.extractor_weights, *options.weights_here]),
    )
    evaluated = evaluate_geneval(request, folders, setting, again=options.again)
    if evaluated.is_new:
        rebuild(folders.results)
    if options.json:
        print_json(evaluated.record.model_dump(mode="json") | {"path": str(evaluated.path)})
    else:
        print(report(evaluated))
