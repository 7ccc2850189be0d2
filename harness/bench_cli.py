"""The verb `bench`: what training, sampling, metrics, the store and the board cost in time."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.arguments import (
    add_changes,
    add_extractor_weights,
    add_machine,
    add_threads,
    names,
    positive,
    print_json,
)
from harness.bench_records import BenchCase, BenchRecord, append_bench
from harness.errors import UserError
from harness.processes import cores
from harness.request_cli import add_results

BENCHED = "sit-s-2,dit-s-2,jit-b-16,rae-dit-s,rae-dit-dh-s"
INCEPTION_WIDTH = 2048
# Enough images to keep the device busy, few enough to be done in a moment.
CPU_BATCH, GPU_BATCH = 2, 64
MODES = {"both": (False, True), "off": (False,), "on": (True,)}
# Flags that say what becomes of the answer, and not what is timed.
_OF_THE_ANSWER = ("verb", "subject", "bench", "json", "record", "results")


@dataclass(frozen=True)
class Benched:
    """What was timed: for machines, for a person and for a record; where, and in which arithmetic."""

    shown: Any
    said: str
    cases: Sequence[BenchCase]
    device: str = "CPU"
    precision: str = "float32"


def add(verbs: Any) -> None:
    """The verb `bench`, with a subject."""
    bench = verbs.add_parser(
        "bench",
        help="time training, sampling, registers, metrics, the store and the board",
        description="Time one thing on this machine, which should be idle. What is compared is timed in turns.",
    )
    subjects = bench.add_subparsers(title="subjects", required=True, metavar="SUBJECT", dest="subject")
    _add_training(subjects)
    _add_sampling(subjects)
    _add_features(subjects)
    _add_frechet(subjects)
    _add_encoder(subjects)
    _add_overhead(subjects)
    _add_cost(subjects)
    _add_store(subjects)
    _add_board(subjects)


def _add_training(subjects: Any) -> None:
    training = _subject(subjects, "training", _training, "training images a second: register arms, eager and compiled")
    _add_arms(training, "sit-b-2", "a width with fewer blocks: --set network.depth=4")
    _add_repeats(training, 5)
    _add_batch(training)


def _add_sampling(subjects: Any) -> None:
    sampling = _subject(subjects, "sampling", _sampling, "images a second of a run's sampler: arms, eager and compiled")
    _add_arms(sampling, "sit", "a shorter grid: --set sampler.points=10")
    _add_repeats(sampling, 3)
    sampling.add_argument("--batch", type=positive, default=64, help="images at once (default: 64, a CPU's tile)")


def _add_features(subjects: Any) -> None:
    features = _subject(subjects, "features", _features, "images a second through a feature extractor")
    features.add_argument("--extractor", default="digits", metavar="NAME", help="as in `list extractors`, or timm/NAME")
    add_extractor_weights(features)
    features.add_argument("--images", type=positive, default=256, help="how many images (default: 256)")
    features.add_argument("--image-size", type=positive, default=256, help="their side (default: 256)")
    _add_repeats(features, 5)
    add_machine(features)


def _add_frechet(subjects: Any) -> None:
    frechet = _subject(subjects, "frechet", _frechet, "the Fréchet distance of 2,048 features, and clean-fid's")
    frechet.add_argument("--features", type=positive, default=INCEPTION_WIDTH, help="how many features (default: 2048)")
    _add_repeats(frechet, 7)


def _add_encoder(subjects: Any) -> None:
    encoder = _subject(subjects, "encoder", _encoder, "an encoder with test-time registers and without")
    encoder.add_argument("encoder", metavar="NAME", help="an encoder with a list of register neurons")
    encoder.add_argument("--compile", action="store_true", help="under torch.compile")
    _add_batch(encoder)
    _add_repeats(encoder, 7)
    add_threads(encoder)


def _add_overhead(subjects: Any) -> None:
    overhead = _subject(subjects, "overhead", _overhead, "what registers add to a step and to a pass, over operations")
    _add_configurations(overhead, BENCHED, "denoiser", "network.depth=4")
    _add_batch(overhead)
    _add_repeats(overhead, 7)
    add_threads(overhead)


def _add_cost(subjects: Any) -> None:
    cost = _subject(subjects, "cost", _cost, "latency, images a second, memory and MFU of configurations")
    _add_configurations(cost, BENCHED, "denoiser", "network.depth=4")
    _add_batch(cost)
    _add_repeats(cost, 7)
    add_machine(cost)


def _add_store(subjects: Any) -> None:
    store = _subject(subjects, "store", _store, "rebuilding the database of many records, appending and finding one")
    _add_records(store)


def _add_board(subjects: Any) -> None:
    board = _subject(subjects, "board", _board, "each question that the leaderboard's page asks of many records")
    _add_records(board)


def _subject(subjects: Any, name: str, bench: Callable[[argparse.Namespace], Benched], title: str) -> Any:
    parser = subjects.add_parser(name, help=title, description=f"Time {title}.")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--record", action="store_true", help="append what was timed to the results, below bench/")
    add_results(parser)
    parser.set_defaults(verb=_bench, bench=bench)
    return parser


def _add_arms(parser: Any, backbones: str, example: str) -> None:
    parser.add_argument(
        "--backbones", default=backbones, metavar="LIST", help=f"families or exact names (default: {backbones})"
    )
    parser.add_argument("--registers", default="none,denoiser", help="presets, the first the base (none,denoiser)")
    parser.add_argument(
        "--compile", choices=MODES, default="both", help="the arms eager, compiled, or both (default: both)"
    )
    parser.add_argument("--precision", choices=("auto", "float32", "tf32", "bf16"), help="instead of the recipe's")
    add_changes(parser, example.partition("--set ")[2])
    parser.epilog = f"For {example}"
    add_machine(parser)


def _add_configurations(parser: Any, backbones: str, registers: str, example: str) -> None:
    parser.add_argument("--backbones", default=backbones, metavar="LIST", help=f"exact names (default: {backbones})")
    parser.add_argument("--registers", default=registers, help=f"the preset (default: {registers})")
    add_changes(parser, example)


def _add_repeats(parser: Any, usual: int) -> None:
    parser.add_argument("--repeats", type=positive, default=usual, help=f"how many timings of each (default: {usual})")


def _add_batch(parser: Any) -> None:
    parser.add_argument(
        "--batch", type=positive, help=f"images at once (default: {CPU_BATCH}, and {GPU_BATCH} on a GPU)"
    )


def _add_records(parser: Any) -> None:
    parser.add_argument("--records", type=positive, default=10_000, help="how many (default: 10000), made of --results")


def _bench(options: argparse.Namespace) -> None:
    if "threads" in options:
        options.threads = options.threads or cores()
    timed = options.bench(options)
    print_json(timed.shown) if options.json else print(timed.said)
    if options.record:
        from harness.progress import say

        say(f"recorded: {append_bench(Path(options.results), _record(options, timed))}")


def _record(options: argparse.Namespace, timed: Benched) -> BenchRecord:
    from harness.provenance import collect

    settings = {name: value for name, value in vars(options).items() if name not in _OF_THE_ANSWER}
    return BenchRecord(
        subject=options.subject,
        created=datetime.now(UTC),
        command=shlex.join(["bench", options.subject, *_words(settings)]),
        settings={name: _spelled(value) for name, value in settings.items()},
        device=timed.device,
        cases=tuple(timed.cases),
        provenance=collect(
            device="cpu" if timed.device == "CPU" else "cuda",
            device_name=timed.device,
            precision=timed.precision,
            threads=settings.get("threads", cores()),
            sampling_batch=None,
        ),
    )


def _words(settings: dict[str, Any]) -> list[str]:
    """The flags that give these settings; what is not set is left out."""
    words: list[str] = []
    for name, value in settings.items():
        flag = "--set" if name == "changes" else f"--{name.replace('_', '-')}"
        if name == "encoder":
            words.append(value)
        elif isinstance(value, list):
            words += [word for each in value for word in (flag, each)]
        elif value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return words


def _spelled(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _training(options: argparse.Namespace) -> Benched:
    from harness.training_bench import training_speed

    found = [
        training_speed(arms, MODES[options.compile], _batch(options), options.repeats) for arms in _arms_of(options)
    ]
    return _by_backbone(found)


def _sampling(options: argparse.Namespace) -> Benched:
    from harness.sampling_bench import sampling_speed

    found = [sampling_speed(arms, MODES[options.compile], options.batch, options.repeats) for arms in _arms_of(options)]
    return _by_backbone(found)


def _by_backbone(found: Sequence[Any]) -> Benched:
    return Benched(
        shown=[each.shown() for each in found],
        said="\n\n".join(each.report() for each in found),
        cases=[case for each in found for case in each.cases()],
        device=found[0].place.name,
        precision=found[0].place.precision,
    )


def _features(options: argparse.Namespace) -> Benched:
    from harness.extractors import weights_by_extractor
    from harness.feature_bench import Looking, feature_speed

    given = weights_by_extractor(options.extractor_weights)
    weights = given.get(options.extractor, given.get(""))
    looking = Looking(options.extractor, weights, options.images, options.image_size)
    return _of_one(feature_speed(looking, options.device, options.threads, options.repeats))


def _frechet(options: argparse.Namespace) -> Benched:
    from harness.frechet_bench import compare

    return _of_one(compare(options.features, options.repeats))


def _encoder(options: argparse.Namespace) -> Benched:
    from harness.encoder_bench import encoder_overhead

    return _of_one(
        encoder_overhead(
            options.encoder, _batch(options), options.repeats, threads=options.threads, compiled=options.compile
        )
    )


def _store(options: argparse.Namespace) -> Benched:
    from harness.store_bench import store_speed

    return _of_one(store_speed(Path(options.results), options.records))


def _board(options: argparse.Namespace) -> Benched:
    from harness.board_bench import board_speed

    return _of_one(board_speed(Path(options.results), options.records))


def _of_one(timed: Any) -> Benched:
    return Benched(timed.shown(), timed.report(), [timed.case()], device=getattr(timed, "device", "CPU"))


def _cost(options: argparse.Namespace) -> Benched:
    from harness.cost_bench import cost

    found = [cost(arm, _batch(options), options.repeats) for arms in _arms_of(options) for arm in arms]
    return Benched(
        shown=[each.shown() for each in found],
        said="\n\n".join(each.report() for each in found),
        cases=[each.case() for each in found],
        device=found[0].device,
        precision=found[0].precision,
    )


def _overhead(options: argparse.Namespace) -> Benched:
    from harness.overhead_bench import overhead, report

    found = [overhead(arm, _batch(options), options.repeats) for arms in _arms_of(options) for arm in arms]
    return Benched([each.shown() for each in found], report(found), [each.case() for each in found])


def _batch(options: argparse.Namespace) -> int:
    from harness.machine import find_device

    on_gpu = find_device(getattr(options, "device", "cpu")).type == "cuda"
    options.batch = options.batch or (GPU_BATCH if on_gpu else CPU_BATCH)
    return int(options.batch)


def _arms_of(options: argparse.Namespace) -> list[list[Any]]:
    """For each backbone its configurations, one for each preset."""
    backbones, presets = names(options.backbones), names(options.registers)
    if not backbones or not presets:
        raise UserError("there is nothing to time", "name backbones and registers, as in --backbones sit-b-2")
    return [[_config(options, backbone, preset) for preset in presets] for backbone in backbones]


def _config(options: argparse.Namespace, backbone: str, preset: str) -> Any:
    from harness.resolve import Request, resolve_network
    from harness.spec import Execution

    changes = [change for change in options.changes if preset != "none" or not change.startswith("registers.")]
    if getattr(options, "precision", None):
        changes.append(f"recipe.precision={options.precision}")
    execution = Execution(threads=options.threads, device=getattr(options, "device", "cpu"))
    return resolve_network(Request(backbone, preset, changes=tuple(changes), execution=execution))
