"""`run` and `probe` of pretrained pipelines, `--backbone diffusers:NAME`: names only, no torch before it is needed."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.arguments import add_detector_size, print_json
from harness.changes import Changes
from harness.errors import UserError
from harness.pipelines.settings import PREFIX, SECTION, PipelineSettings

if TYPE_CHECKING:
    from harness.geneval_judging import JudgeNames
    from harness.pipelines.recording import Request

NO_JUDGE = "none"

# What both verbs understand beside --backbone and --set, which the parsers of `run` and `probe` fill with this.
_UNDERSTOOD = {
    *("backbone", "changes", "registers", "seed", "device", "threads", "runs", "results", "json"),
    *("dry_run", "again", "verb"),
    *("images", "figure", "out"),
}
_OWN = ("prompts", "judge", "detector", "detector_size", "clip")
_FLAGS = {"compiled": "compile"}
# The default of a flag that has one; of any other it is nothing.
_DEFAULTS = {
    "task": ("digits",),
    "references_dir": (Path("references"),),
    "accumulate": (1,),
    "sharding": ("ddp",),
}


def is_pipeline(options: argparse.Namespace) -> bool:
    """Whether a backbone was named that is a pretrained pipeline.

    Raises UserError for flags of pipelines where it is none.
    """
    if (options.backbone or "").startswith(PREFIX):
        return True
    useless = [name.replace("_", "-") for name in _OWN if getattr(options, name, None)]
    if useless:
        raise UserError(
            f"--{useless[0]} belongs to pretrained pipelines, and {options.backbone} is trained here",
            f"leave --{useless[0]} out, or say --backbone {PREFIX}HUB_ID_OR_PATH",
        )
    return False


def add_flags(run: argparse.ArgumentParser) -> None:
    """What `run` understands for pretrained pipelines alone."""
    pipelines = run.add_argument_group(
        "pretrained text-to-image pipelines",
        f"--backbone {PREFIX}HUB_ID_OR_PATH samples GenEval's prompts, probes the transformer meanwhile, and scores "
        "the images; --set pipeline.steps=20 and the like change how (--dry-run shows all)",
    )
    pipelines.add_argument("--prompts", type=Path, metavar="FILE", help="JSON lines (default: the 553 official ones)")
    pipelines.add_argument("--judge", choices=(NO_JUDGE,), help="none: sample and probe alone")
    pipelines.add_argument("--detector", metavar="ID_OR_DIR", help="the Mask2Former that finds objects")
    add_detector_size(pipelines)
    pipelines.add_argument("--clip", metavar="ID_OR_DIR", help="the CLIP that names colours")


def run(options: argparse.Namespace) -> None:
    """The stored record of a pipeline, or a new one."""
    request = _request(options, _settings(options.changes))
    if options.dry_run:
        from harness.pipelines.recording import shown_request

        print_json(shown_request(request))
        return
    from harness.pipelines.recording import run_pipeline
    from harness.pipelines.report import report

    made = run_pipeline(request, again=options.again)
    if options.json:
        print_json(made.record.model_dump(mode="json") | {"path": str(made.path)})
    else:
        print(report(made))


def probe(options: argparse.Namespace) -> Any:
    """What was found in a pipeline's transformer, as `probe` tells it of any denoiser."""
    settings = _settings(options.changes)
    if options.images:
        settings = settings.model_copy(update={"probed_prompts": options.images})
    if options.runs:
        raise UserError("--runs has no effect on the probe of a pipeline, which keeps nothing", "leave --runs out")
    request = _request(options, settings)
    from harness.pipelines.recording import probe_pipeline

    return probe_pipeline(request, drawn=options.figure is not None)


def _settings(changes: Sequence[str]) -> PipelineSettings:
    return Changes(changes, [SECTION]).apply(SECTION, PipelineSettings())


def _request(options: argparse.Namespace, settings: PipelineSettings) -> "Request":
    _require_understood(options)
    from harness.metrics.geneval.official_prompts import official_prompts
    from harness.pipelines.prompt_files import read_prompts
    from harness.pipelines.recording import Request
    from harness.spec import Execution

    prompts = getattr(options, "prompts", None)
    places = {name: getattr(options, name, None) for name in ("device", "threads", "runs", "results")}
    return Request(
        name=options.backbone.removeprefix(PREFIX),
        prompts=official_prompts() if prompts is None else read_prompts(prompts),
        settings=settings,
        seed=getattr(options, "seed", 0),
        execution=Execution(**{name: place for name, place in places.items() if place is not None}),
        judge=_judge(options),
    )


def _require_understood(options: argparse.Namespace) -> None:
    """Raise UserError for registers, and for flags that would have no effect."""
    if (options.registers or "none") != "none":
        raise UserError(
            f"--registers {options.registers}: registers are trained with a denoiser, and a pretrained pipeline is not "
            "trained here",
            "leave --registers out; `run --task shapes-t2i --registers dsr` trains a denoiser that has them",
        )
    for name, value in vars(options).items():
        is_said = bool(value) and value not in _DEFAULTS.get(name, ())
        if is_said and name not in {*_UNDERSTOOD, *_OWN}:
            flag = f"--{_FLAGS.get(name, name).replace('_', '-')}"
            raise UserError(f"{flag} has no effect on --backbone {PREFIX}...", f"leave {flag} out")


def _judge(options: argparse.Namespace) -> "JudgeNames | None":
    """Who scores; None where nobody shall.  Raises UserError for a detector or a CLIP that would not be asked."""
    given = {"detector": "detector", "clip": "clip", "size": "detector_size"}
    named = {name: value for name, flag in given.items() if (value := getattr(options, flag, None))}
    if not hasattr(options, "judge") or options.judge == NO_JUDGE:
        if named:
            flag = given[next(iter(named))].replace("_", "-")
            raise UserError(f"--{flag} has no effect with --judge none", "leave one of the two out")
        return None
    from harness.geneval_judging import JudgeNames

    return JudgeNames(**named)
