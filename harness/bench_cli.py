"""The verb `bench`: what registers, encoders, metrics and whole configurations cost in time."""

import argparse
from typing import Any

from harness.arguments import positive, print_json, whole
from harness.errors import UserError

BENCHED = "sit-s-2,dit-s-2,jit-b-16,rae-dit-s,rae-dit-dh-s"
INCEPTION_WIDTH = 2048


def add(verbs: Any) -> None:
    """The verb `bench`."""
    bench = verbs.add_parser(
        "bench",
        help="time what registers, encoders, metrics and whole configurations cost",
        description="Time backbones at their official input with registers and without, in turns in one process, and "
        "compare with the ratio of operations; or, with one of --encoder, --frechet and --cost, something else. Run it "
        "on an idle machine.",
    )
    other = bench.add_mutually_exclusive_group()
    other.add_argument("--encoder", metavar="NAME", help="an encoder with test-time registers and without")
    other.add_argument("--frechet", action="store_true", help="the Fréchet distance of 2,048 features, and clean-fid's")
    other.add_argument("--cost", action="store_true", help="latency, images per second, memory, MFU of configurations")
    bench.add_argument("--backbones", default=BENCHED, metavar="LIST", help=f"exact names (default: {BENCHED})")
    bench.add_argument("--registers", default="denoiser", help="the preset (default: denoiser)")
    bench.add_argument("--pairs", type=positive, default=7, help="how many timings of each (default: 7)")
    bench.add_argument("--batch", type=positive, default=2, help="images at once (default: 2)")
    bench.add_argument("--compile", action="store_true", help="--encoder under torch.compile")
    bench.add_argument("--device", default="auto", help="where --cost is timed (default: a GPU if there is one)")
    bench.add_argument("--threads", type=whole, default=0, help="CPU threads (default: every core of this process)")
    bench.add_argument("--json", action="store_true", help="for machines")
    bench.set_defaults(verb=_bench)


def _bench(options: argparse.Namespace) -> None:
    if options.compile and options.encoder is None:
        raise UserError("--compile is for --encoder alone", "add --encoder NAME, or leave --compile out")
    if options.encoder is not None:
        timed = _encoder(options)
    elif options.frechet:
        timed = _frechet(options)
    elif options.cost:
        timed = _cost(options)
    else:
        timed = _overhead(options)
    shown, said = timed
    print_json(shown) if options.json else print(said)


def _encoder(options: argparse.Namespace) -> tuple[Any, str]:
    from harness.encoder_bench import encoder_overhead

    timed = encoder_overhead(
        options.encoder, options.batch, options.pairs, threads=options.threads, compiled=options.compile
    )
    return timed.shown(), timed.report()


def _frechet(options: argparse.Namespace) -> tuple[Any, str]:
    from harness.frechet_bench import compare

    timed = compare(INCEPTION_WIDTH, options.pairs)
    return timed.shown(), timed.report()


def _cost(options: argparse.Namespace) -> tuple[Any, str]:
    from harness.cost_bench import cost

    found = [cost(config, options.batch, options.pairs) for config in _configs(options)]
    return [each.shown() for each in found], "\n\n".join(each.report() for each in found)


def _overhead(options: argparse.Namespace) -> tuple[Any, str]:
    from harness.bench import overhead, report

    found = [overhead(config, options.batch, options.pairs) for config in _configs(options)]
    return [each.shown() for each in found], report(found)


def _configs(options: argparse.Namespace) -> list[Any]:
    from harness.resolve import Request, resolve_network
    from harness.spec import Execution

    execution = Execution(threads=options.threads, device=options.device)
    names = options.backbones.split(",")
    return [resolve_network(Request(name.strip(), options.registers, execution=execution)) for name in names]
