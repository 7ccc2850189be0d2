"""The verb `probe`, of encoders, of runs and of released denoisers: names only, and no torch before it is needed."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import pipeline_cli
from harness.arguments import add_changes, add_encoder, add_machine, add_text_encoder, positive
from harness.errors import UserError

DEFAULT_IMAGES = 500

# What each kind of probe understands beside --data, --images, --figure, --out, --json and the machine.
_UNDERSTOOD: Mapping[str, tuple[str, ...]] = {
    "run": ("runs", "encoder_weights", "decoder", "statistics", "text_encoder", "changes"),
    "backbone": (
        *("weights", "size", "registers", "task", "neurons", "changes"),
        *("encoder", "encoder_weights", "decoder", "statistics", "text_encoder", "runs"),
    ),
    "encoder": ("encoder_weights", "neurons"),
}


def add(verbs: Any) -> None:
    """Add it to the other verbs."""
    probe = verbs.add_parser(
        "probe",
        help="look for outlier tokens in a run's denoiser, in a released one, or in an encoder",
        description="Norms, places, channels and attention of tokens, block by block, and the verdict whether there "
        "are outliers. --run ID probes a finished run's denoiser at every noise level, --backbone NAME --weights FILE "
        "a released one, --backbone diffusers:NAME a pretrained pipeline's transformer; --encoder NAME "
        "probes an encoder, with --neurons also with test-time registers.",
    )
    probe.add_argument("--run", metavar="ID", help="a finished run, by its id: the folder's name below --runs")
    probe.add_argument("--backbone", help="a released denoiser: its family or exact name (sit-xl-2), or diffusers:NAME")
    probe.add_argument("--weights", metavar="PATH_OR_HUB_ID", help="the released denoiser")
    probe.add_argument("--size", help="the size of a family: xl-2 (default: what the task recommends)")
    probe.add_argument("--registers", help="the register preset of the released denoiser (default: none)")
    probe.add_argument("--task", help="what it learnt (default: digits)")
    add_encoder(probe, required=False)
    add_text_encoder(probe)
    probe.add_argument("--neurons", metavar="LIST", help='a neuron list\'s name or file, or "shipped" (for encoders)')
    probe.add_argument("--decoder", metavar="FILE", help="RAE: the decoder of the encoder's latents")
    probe.add_argument("--statistics", metavar="FILE", help="RAE: the latents' statistics, as `stage1` writes them")
    probe.add_argument("--data", metavar="DIR", help='images: the task\'s, or a folder or "digits" for an encoder')
    probe.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help=f"at most N (default: {DEFAULT_IMAGES} for an encoder; for a denoiser as many as its run probes)",
    )
    probe.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="draw maps into this PNG; for a denoiser also a folder, for probe-NAME.png",
    )
    probe.add_argument("--out", type=Path, metavar="FILE", help="write all numbers into this JSON")
    probe.add_argument("--runs", metavar="DIR", help="where runs are (default: runs)")
    probe.add_argument("--json", action="store_true", help="print them, for machines")
    add_changes(probe, "protocol.noise_levels=[0.1,0.5] (with --run: execution.vae=PATH and its like)")
    add_machine(probe)
    probe.set_defaults(verb=_probe)


def _probe(options: argparse.Namespace) -> None:
    if pipeline_cli.is_pipeline(options):
        _require_places(options, "pipeline")
        _tell(options, pipeline_cli.probe(options))
        return
    kind = _kind(options)
    _require_places(options, kind)
    if kind == "encoder":
        _probe_encoder(options)
    else:
        _probe_denoiser(options)


def _kind(options: argparse.Namespace) -> str:
    """Which probe is asked for.  Raises UserError for none, for two, and for flags that would have no effect."""
    if options.run is not None and (options.backbone or options.encoder):
        other = "--backbone" if options.backbone else "--encoder"
        raise UserError(f"--run and {other} ask for two different probes", f"give --run ID or {other}, one of them")
    kind = next((kind for kind in _UNDERSTOOD if getattr(options, kind) is not None), None)
    if kind is None:
        raise UserError(
            "nothing is named that could be probed",
            "give --run ID, --backbone NAME --weights FILE, or --encoder NAME --data DIR",
        )
    everything = {name for names in _UNDERSTOOD.values() for name in names}
    useless = sorted(name for name in everything - {*_UNDERSTOOD[kind], kind} if getattr(options, name))
    if useless:
        flag = "--set" if useless[0] == "changes" else f"--{useless[0].replace('_', '-')}"
        raise UserError(f"{flag} has no effect on probe --{kind}", f"leave {flag} out")
    if kind == "backbone" and options.weights is None:
        raise UserError(f"there are no weights of {options.backbone} to probe", "add --weights PATH_OR_HUB_ID")
    if kind == "encoder" and options.data is None:
        raise UserError("an encoder is probed on images", 'add --data DIR, a folder of images, or "digits"')
    return kind


def _require_places(options: argparse.Namespace, kind: str) -> None:
    from harness.files import require_writable

    if options.out is not None:
        require_writable(options.out.parent)
    if options.figure is not None:
        in_folder = kind != "encoder" and _is_folder(options.figure)
        require_writable(options.figure if in_folder else options.figure.parent)


def _is_folder(place: Path) -> bool:
    return place.is_dir() or not place.suffix


def _probe_encoder(options: argparse.Namespace) -> None:
    from harness.encoder_report import compared, report
    from harness.files import write_text
    from harness.machine import start
    from harness.norm_figure import draw
    from harness.probing import probe_encoder

    device = start(options.device, options.threads)
    probed = probe_encoder(
        options.encoder,
        options.data,
        options.images or DEFAULT_IMAGES,
        device,
        weights=options.encoder_weights,
        listed=options.neurons,
    )
    if options.figure is not None:
        draw(probed.before, probed.after, options.figure)
    if options.out is not None:
        write_text(options.out, probed.text())
    if options.json:
        print(probed.text(), end="")
        return
    print(report(probed.before))
    if probed.after is not None:
        print(f"\n{report(probed.after)}\n\n{compared(probed.before, probed.after)}")


def _probe_denoiser(options: argparse.Namespace) -> None:
    from harness.spec import Execution

    places = {name: getattr(options, name, None) for name in Execution.model_fields}
    execution = Execution(**{name: place for name, place in places.items() if place is not None})
    if options.run is None:
        from harness.resolve import Request, resolve

        request = Request(
            backbone=options.backbone,
            registers=options.registers or "none",
            neurons=options.neurons,
            task=options.task,
            size=options.size,
            changes=tuple(options.changes),
            execution=execution,
        )
        config = resolve(request)
        from harness.denoiser_probing import probe_weights

        probed = probe_weights(config, options.images)
    else:
        from harness.denoiser_probing import probe_run

        probed = probe_run(options.run, tuple(options.changes), execution, options.images)
    _tell(options, probed)


def _tell(options: argparse.Namespace, probed: Any) -> None:
    from harness.files import write_text
    from harness.outlier_report import report

    if options.out is not None:
        write_text(options.out, probed.text())
    figure = None
    if options.figure is not None:
        from harness.outlier_figure import draw

        figure = options.figure / f"probe-{_bare(probed.name)}.png" if _is_folder(options.figure) else options.figure
        draw(probed, figure)
    if options.json:
        print(probed.text(), end="")
        return
    print(report(probed))
    if figure is not None:
        print(f"\nfigure   {figure}")


def _bare(name: str) -> str:
    """A name without what a file of weights ends in: what follows another dot is part of it, as in FLUX.1-dev."""
    from harness.released import SUFFIXES

    file = Path(name)
    return file.stem if file.suffix in SUFFIXES else file.name
