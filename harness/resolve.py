"""From names and overrides to one RunConfig, or to a UserError: all that a user can get wrong is found here."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import dsr
from harness import references, registry, tasks
from harness.backbone import Backbone, Network
from harness.changes import Changes
from harness.digits_judge import REFERENCE as DIGITS
from harness.distributed import require_shares
from harness.errors import UserError
from harness.processes import cores
from harness.registers import RegisterConfig
from harness.registry import Named
from harness.resolve_latents import resolve_latents, with_registered_weights
from harness.resolve_text import resolve_text
from harness.respacing import NUM_STEPS, kept_steps
from harness.shapes.palette import DESIGN_SIZE
from harness.spec import (
    DdimSampler,
    DdpmObjective,
    DdpmSampler,
    Execution,
    FlowObjective,
    Guidance,
    Guide,
    Objective,
    Protocol,
    RunConfig,
    Sampler,
    SdeSampler,
)
from harness.texts import prompts_of

LONGEST_LAST_STEP = 0.9
DEFAULT_TASK, OFFICIAL_TASK = "digits", "imagenet256"


@dataclass(frozen=True)
class Request:
    """What was asked for, in names.  `located` are its task's images, where they were found before."""

    backbone: str
    registers: str = "none"
    task: str | None = None
    size: str | None = None
    seed: int = 0
    guide_size: str | None = None
    neurons: str | None = None
    changes: tuple[str, ...] = ()
    execution: Execution = field(default_factory=Execution)
    located: tasks.Located | None = None


def resolve(request: Request, *, needs_data: bool = True) -> RunConfig:
    """Every default, filled in and checked; no torch, unless weights are given and have to be looked into.

    `needs_data` False is for showing a task whose images are not here.  Raises UserError for a name that there is
    not, a value that is not allowed, and settings that exclude each other.
    """
    config, network = _resolve(request, official_input=False)
    _check_task(config, network)
    _check_labels(config, network)
    _check_references(config.execution)
    require_shares(config)
    if needs_data and not config.task.data_fingerprint:
        raise UserError(
            f"the task {config.task.name} needs images",
            "add --data DIR, a folder of images with captions"
            if config.task.prompts
            else "add --data DIR, a folder that holds one subfolder per class (or a train/ folder with them)",
        )
    return config


def resolve_network(request: Request) -> RunConfig:
    """`resolve` for a description: without a task, an exact name keeps the input it was published with."""
    is_exact = find_size(request.backbone, request.size).size is not None
    about_a_task = request.task is not None or any(change.startswith("task.") for change in request.changes)
    if request.execution.encoder is not None and not about_a_task:
        request, about_a_task = replace(request, task=OFFICIAL_TASK), True
    return _resolve(request, official_input=is_exact and not about_a_task)[0]


def with_images(request: Request) -> Request:
    """The request with its images found, so that many like it need not look for them again.

    Raises UserError where there are none.
    """
    if any(change.startswith("execution.") for change in request.changes):
        return request
    return replace(request, located=_locate(tasks.find(request.task or DEFAULT_TASK), request.execution))


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` or `0-2`; raises UserError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if (
            not part.isascii()
            or not first.isdigit()
            or (dash and not last.isdigit())
            or (dash and int(last) < int(first))
        ):
            raise UserError(f"the seeds {text!r} are not understood", "write --seeds 0,1,2 or --seeds 0-2")
        seeds += range(int(first), int(last or first) + 1)
    return sorted(set(seeds))


def _resolve(request: Request, *, official_input: bool) -> tuple[RunConfig, Network]:
    changes = Changes(request.changes, RunConfig.model_fields)
    found = find_size(request.backbone, request.size)
    backbone = found.backbone
    definition = tasks.find(request.task or (OFFICIAL_TASK if official_input else DEFAULT_TASK))
    execution = _carried_out(changes.apply("execution", request.execution), found)
    located = request.located or _locate(definition, execution)
    task = changes.apply("task", located.task)
    size = found.size or definition.size_of(backbone, task)
    seen = resolve_latents(definition, backbone, task, execution, changes)
    latents = seen.latents
    published = backbone.size(size)
    on_task = published if official_input else published.on(*latents.shape(task), task.num_classes)
    network = changes.apply("network", on_task)
    stage = dsr.EncoderStage(latents, seen.encoder, request.neurons)
    registers = changes.apply("registers", dsr.configure(request.registers, backbone, network, stage))
    registers = with_registered_weights(registers, seen)
    text = resolve_text(definition, execution, changes)
    config = RunConfig(
        backbone=backbone.name,
        size=size,
        network=network.model_dump(),
        registers=registers,
        task=task,
        latents=latents,
        text=text,
        objective=changes.apply("objective", backbone.objective(network), Objective),
        recipe=changes.apply("recipe", definition.recipe_of(backbone, located.num_images)),
        sampler=changes.apply("sampler", definition.sampler_of(backbone), Sampler),
        protocol=_in_force(changes.apply("protocol", definition.protocol(backbone, size, task))),
        seed=_seed(request.seed),
        third_party=found.third_party,
        execution=seen.execution,
    )
    network.check()
    dsr.check(registers, network, seen.encoder)
    _check_objective(config, network)
    _check_sampler(config)
    return _with_weights(config, backbone, network, request.guide_size), network


def _locate(definition: tasks.TaskDefinition, execution: Execution) -> tasks.Located:
    return definition.locate(Path(execution.data) if execution.data else None)


def _with_weights(config: RunConfig, backbone: Backbone, network: Network, guide_size: str | None) -> RunConfig:
    """The run with the released models that it names, once they are sure to fit."""
    execution = config.execution
    if execution.weights is None and execution.guide is None:
        if guide_size is not None:
            raise UserError("--guide-size says how large a guide is, and there is none", "add --guide PATH_OR_HUB_ID")
        return config
    from harness.build import identify

    if execution.weights is not None:
        config = config.model_copy(update={"weights": identify(config, execution.weights)})
    if execution.guide is None:
        return config
    if not _guides(config.protocol.guidance):
        raise UserError(
            "a guide changes nothing at a scale of 1", "add --set protocol.guidance.scale=1.42 (RAE's), or drop --guide"
        )
    size = guide_size or config.size
    smaller = backbone.size(size).on(network.in_channels, network.input_size, network.num_classes)
    guide_network = smaller.model_dump()
    guided_by = identify(
        config.model_copy(update={"network": guide_network, "registers": RegisterConfig()}), execution.guide
    )
    guide = Guide(backbone=f"{backbone.name}-{size}", network=guide_network, weights_sha256=guided_by.sha256)
    guidance = config.protocol.guidance.model_copy(update={"guide": guide})
    return config.model_copy(update={"protocol": config.protocol.model_copy(update={"guidance": guidance})})


def _in_force(protocol: Protocol) -> Protocol:
    """Guidance that changes nothing is said in one way, so that families without any share a protocol."""
    if _guides(protocol.guidance):
        return protocol
    return protocol.model_copy(update={"guidance": Guidance()})


def _guides(guidance: Guidance) -> bool:
    return guidance.scale != 1.0 or guidance.outside != 1.0


def find_size(name: str, size: str | None) -> Named:
    """What a name such as `sit`, `sit-xl-2` or `file.py:mine` stands for; `size` is that which is said beside it.

    Its size is None where neither says one.  Raises UserError for a name or size that there is not, and for two sizes.
    """
    found = registry.named(name)
    if size is None:
        return found
    if found.size not in (None, size):
        family = name.removesuffix(f"-{found.size}")
        raise UserError(f"--backbone {name} and --size {size} name two sizes", f"use --backbone {family} --size {size}")
    found.backbone.size(size)
    return replace(found, size=size)


def _carried_out(execution: Execution, found: Named) -> Execution:
    threads = execution.threads or max(1, cores() // execution.processes)
    return execution.model_copy(update={"threads": threads, "backbone_file": found.file and str(found.file)})


def _seed(value: int) -> int:
    if not 0 <= value < 2**63:
        raise UserError(f"a seed is a whole number from 0 to 2^63 - 1, not {value}", "use --seed 0, or --seeds 0-2")
    return value


def _check_task(config: RunConfig, network: Network) -> None:
    task = config.task
    channels, side = config.latents.shape(task)
    for name, wanted in (("input_size", side), ("in_channels", channels), ("num_classes", task.num_classes)):
        if getattr(network, name) != wanted:
            raise UserError(
                f"network.{name} is {getattr(network, name)}, and the images of task {task.name} make it {wanted}",
                f"leave network.{name} alone; the image size is task.image_size",
            )
    if task.name == "digits" and (task.image_size, task.channels) != (8, 1):
        raise UserError(
            f"the digits are 8 x 8 with one channel, not {task.image_size} x {task.image_size} with {task.channels}",
            "use --task folder for images of another size",
        )
    if task.horizontal_flip and task.prompts:
        raise UserError("a mirrored image is no longer what its caption says", "leave task.horizontal_flip alone")
    if task.prompts == "shapes" and (task.image_size % DESIGN_SIZE or task.channels != 3):
        raise UserError(
            f"shapes are drawn in colour at multiples of {DESIGN_SIZE} pixels, not at {task.image_size} with "
            f"{task.channels} channels",
            "set task.image_size=32 or 64",
        )
    if task.channels not in (1, 3):
        raise UserError(f"images have 1 channel (grey) or 3 (RGB), not {task.channels}", "set task.channels to 1 or 3")


def _check_objective(config: RunConfig, network: Network) -> None:
    objective, channels = config.objective, network.in_channels
    learned = isinstance(objective, DdpmObjective) and objective.variance == "learned_range"
    wanted = 2 * channels if learned else channels
    if network.predicted_channels != wanted:
        raise UserError(
            f"{config.exact_name} predicts {network.predicted_channels} channels, and its objective needs {wanted}",
            "set objective.variance=learned_range together with network.learn_sigma=true, or neither",
        )
    if isinstance(objective, FlowObjective):
        _check_flow(objective)
    elif config.registers.loss_mask is not None and config.registers.loss_mask.time_shift is not None:
        raise UserError("a time shift of the loss needs a flow's times", "leave registers.loss_mask.time_shift out")
    if config.recipe.label_dropout > 0 and not _has_null(config, network):
        raise UserError(
            'labels cannot be dropped: this network has no embedding for "no class"',
            "set network.null_class=true, or recipe.label_dropout=0",
        )


def _has_null(config: RunConfig, network: Network) -> bool:
    """Whether there is something to ask for in place of a label: no class, or the empty prompt."""
    return network.has_null_class or config.text is not None


def _check_flow(objective: FlowObjective) -> None:
    if objective.prediction == "data" and objective.path != "linear":
        raise UserError(
            f"a data prediction gives the velocity on the linear path only, not on {objective.path}",
            "set objective.path=linear, or objective.prediction=velocity",
        )
    if objective.toward_noise and objective.path == "vp":
        raise UserError("the vp path has no meaning in RAE's direction of time", "set objective.path=linear or gvp")


def _check_sampler(config: RunConfig) -> None:
    objective, sampler = config.objective, config.sampler
    kinds = ("ode", "sde") if isinstance(objective, FlowObjective) else ("ddpm", "ddim")
    if sampler.kind not in kinds:
        raise UserError(
            f"a {objective.kind} objective is not sampled by {sampler.kind}",
            f"set sampler.kind to {' or '.join(kinds)}",
        )
    if isinstance(sampler, DdpmSampler | DdimSampler):
        kept_steps(sampler.respacing, NUM_STEPS)
    if isinstance(sampler, SdeSampler) and isinstance(objective, FlowObjective):
        if objective.noise_scale != 1:
            raise UserError(
                f"the SDE is that of unit noise, and objective.noise_scale is {objective.noise_scale}",
                "set sampler.kind=ode",
            )
        _check_ends(sampler, is_direct=objective.is_direct)


def _check_ends(sampler: SdeSampler, *, is_direct: bool) -> None:
    """Refuse an SDE that would be asked where it has no value: at t = 0, at t = 1, or after its end."""
    if sampler.diffusion == "sbdm" and is_direct:
        raise UserError(
            "the sbdm diffusion is infinite at t = 0, where sampling of a velocity on this path starts",
            "set sampler.diffusion=sigma, or objective.prediction to noise or score",
        )
    no_last_step = sampler.last_step == "none" or sampler.last_step_size == 0
    asks_at_the_end = sampler.method == "heun" or sampler.last_step in ("mean", "tweedie")
    if (is_direct and no_last_step and asks_at_the_end) or sampler.last_step_size > LONGEST_LAST_STEP:
        raise UserError(
            f"the SDE cannot be solved to a last step of {sampler.last_step_size} ({sampler.last_step}): "
            "the score has no value at its end",
            f"set sampler.last_step_size above 0 and up to {LONGEST_LAST_STEP}, with sampler.last_step=mean",
        )


def _check_references(execution: Execution) -> None:
    for name in execution.references:
        if name != DIGITS.name:
            references.find(execution.references_dir, name)


def _check_labels(config: RunConfig, network: Network) -> None:
    protocol, prompts = config.protocol, prompts_of(config.task)
    kinds, name = (len(prompts), "prompts") if prompts else (config.task.num_classes, "classes")
    if protocol.num_images % kinds:
        below = protocol.num_images - protocol.num_images % kinds
        near = [str(count) for count in (below, below + kinds) if count]
        raise UserError(
            f"{protocol.num_images} images cannot be balanced over {kinds} {name}",
            f"set protocol.num_images to {' or '.join(near)}",
        )
    guidance, registers = protocol.guidance, config.registers
    if registers.guidance is not None and registers.denoiser is None:
        raise UserError("register guidance needs registers", "use --registers register-guidance")
    was_dropped = _has_null(config, network) and config.recipe.label_dropout
    if _guides(guidance) and guidance.guide is None and not was_dropped:
        raise UserError(
            "classifier-free guidance needs a network that was trained with dropped labels",
            "set recipe.label_dropout above 0, or protocol.guidance.scale=1",
        )
