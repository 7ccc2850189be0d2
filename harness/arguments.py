"""What the flags of all verbs share: their types, and how an answer is printed for machines."""

import argparse
import json
from pathlib import Path
from typing import Any


def whole(text: str) -> int:
    """A whole number from 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return number


def names(text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def add_changes(parser: argparse.ArgumentParser, example: str) -> None:
    """`--set`, which changes any field of a configuration."""
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"change any field: --set {example}",
    )


def add_encoder(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Which encoder, and where its weights are."""
    parser.add_argument(
        "--encoder",
        required=required,
        metavar="NAME_OR_DIR",
        help="an encoder of `list encoders`, a folder with a config.json, or timm/NAME",
    )
    parser.add_argument("--encoder-weights", metavar="PATH", help="its weights, instead of the published ones")


def add_text_encoder(parser: argparse.ArgumentParser) -> None:
    """The encoder of prompts, where that is frozen."""
    parser.add_argument(
        "--text-encoder", metavar="PATH_OR_HUB_ID", help="text to image: a frozen encoder of transformers for prompts"
    )


def add_detector_size(parser: Any) -> None:
    """How large GenEval's detector sees images."""
    parser.add_argument(
        "--detector-size",
        choices=("official", "checkpoint"),
        help="how large the detector sees images: as the official tool's, a shorter side of 800 and at most 1333 "
        "(default), or as its own processor says (the released ones: 384 x 384)",
    )


def add_extractor_weights(parser: argparse.ArgumentParser) -> None:
    """Where the weights of feature extractors are."""
    parser.add_argument(
        "--extractor-weights",
        action="append",
        default=[],
        metavar="[EXTRACTOR=]PATH",
        help="the extractor's weights, instead of the published ones",
    )


def add_references_dir(parser: argparse.ArgumentParser) -> None:
    """Where references lie."""
    parser.add_argument(
        "--references-dir",
        type=Path,
        default=Path("references"),
        metavar="DIR",
        help="references (default: references)",
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Where it is computed."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    add_threads(parser)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """With how many threads."""
    parser.add_argument("--threads", type=whole, default=0, help="CPU threads (default: every core of this process)")


def print_json(value: Any) -> None:
    """Print data as JSON."""
    print(json.dumps(value, indent=1, allow_nan=False))
