"""Whether a configuration is one that `resolve` could have made: known names, and dimensions that fit (no torch)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

import dsr
from harness import encoders, registry, tasks
from harness.backbone import Network
from harness.contributing.verdict import Breach
from harness.encoders import EncoderDefinition
from harness.errors import UserError
from harness.plain_files import reason_of
from harness.registers import RegisterConfig
from harness.resolve_latents import at_task
from harness.respacing import NUM_STEPS, kept_steps
from harness.spec import (
    DdimSampler,
    DdpmSampler,
    DrawnLatents,
    FlowObjective,
    OdeSampler,
    RaeLatents,
    RunConfig,
    SdeSampler,
    Task,
)
from harness.text_config import WORDS
from harness.texts import prompts_of

# What nobody trains, and whoever counted it would wait for.
LARGEST: Final = 100_000
DEEPEST, MOST_TOKENS, MOST_POINTS, LONGEST_RESPACING = 512, 65_536, 10_000, 100
MOST_CLASSES, WIDEST_FACTOR = 1_000_000, 64.0

_PYTHON_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .-]{0,80}\.py")
_SIZE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_DIMENSION: Final = re.compile(r"[a-z][a-z0-9_]{0,59}")
MOST_DIMENSIONS, LONGEST_VALUE = 60, 80
# Tasks that bring their own images.
SHAPES: Final = "shapes-t2i"
_EMBEDDED: Final = ("digits", SHAPES)
_SETS_OF_PROMPTS: Final = {SHAPES: "shapes", "t2i": "geneval"}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_REMEDY: Final = "submit a run that `python -m harness run` made from its flags"
_STAGES: Final = tuple(
    name for name in RegisterConfig.model_fields if name not in ("preset", "encoder", "absent_stages", "native_tokens")
)


def breaches_of_configuration(config: RunConfig) -> Iterator[Breach]:
    """Why no `run` has this configuration.  A third party's network is not looked into: its file is not here."""
    yield from _task(config)
    yield from _text(config)
    yield from _sampling(config)
    if config.third_party is not None:
        yield from _third_party(config)
        return
    try:
        size = registry.find(config.backbone).size(config.size)
    except UserError as error:
        yield Breach("backbone", error.problem, error.remedy)
        return
    if too_large := _too_large(config.network):
        yield Breach("configuration", too_large, _REMEDY)
        return
    try:
        network = type(size).model_validate(config.network)
    except ValidationError as error:
        yield Breach("configuration", f"its network does not read as {config.backbone}'s: {reason_of(error)}", _REMEDY)
        return
    yield from _network(config, network)
    yield from _registers(config, network)


def _task(config: RunConfig) -> Iterator[Breach]:
    task = config.task
    if task.name not in tasks.TASKS:
        yield Breach("configuration", f"there is no task named {task.name[:60]!a}", f"known: {', '.join(tasks.TASKS)}")
        return
    if task.name == "digits" and task != tasks.find("digits").locate(None).task:
        yield Breach("configuration", "its task is called digits, and says other things of them", _REMEDY)
    if task.name == SHAPES and task != _shapes(task.image_size):
        yield Breach("configuration", f"its task is called {task.name}, and says other things of them", _REMEDY)
    if task.prompts != _SETS_OF_PROMPTS.get(task.name, ""):
        yield Breach("configuration", f"the prompts of {task.name} are not {task.prompts!a}", _REMEDY)
    if isinstance(config.latents, DrawnLatents) and config.latents != tasks.DRAWN_LATENTS:
        yield Breach("configuration", "its latents are of another autoencoder than the drawn shapes'", _REMEDY)
    if task.name not in _EMBEDDED and task.metric != "none":
        yield Breach("configuration", f"the task {task.name} is not judged by {task.metric}", _REMEDY)
    if task.name not in _EMBEDDED and not task.data_fingerprint and config.weights is None:
        yield Breach("configuration", f"it learned {task.name}, and does not say which images", _REMEDY)
    if task.channels not in (1, 3):
        yield Breach("configuration", f"images have 1 or 3 channels, not {task.channels}", _REMEDY)
    kinds = len(prompts_of(task))
    if config.protocol.num_images % (kinds or task.num_classes):
        over = f"{kinds} prompts" if kinds else f"{task.num_classes} classes"
        problem = f"{config.protocol.num_images} images cannot be balanced over {over}"
        yield Breach("configuration", problem, _REMEDY)


def _shapes(image_size: int) -> Task:
    """The task of drawn shapes at a size."""
    return tasks.find(SHAPES).locate(None).task.model_copy(update={"image_size": image_size})


def _text(config: RunConfig) -> Iterator[Breach]:
    """Whether prompts reach the network where the task has some, in numbers that somebody trains."""
    text, prompts = config.text, config.task.prompts
    if (text is None) != (not prompts):
        problem = "has no prompts, and its network reads some" if text else "has prompts, and its network reads none"
        yield Breach("configuration", f"its task {config.task.name} {problem}", _REMEDY)
    if text is None:
        return
    is_trained = text.encoder == WORDS
    if is_trained and config.task.name != SHAPES:
        yield Breach("configuration", f"no words of {config.task.name} are known to learn to read", _REMEDY)
    elif is_trained and text.vocabulary != tasks.words_of_shapes().vocabulary:
        yield Breach("configuration", f"text.vocabulary is {text.vocabulary}, and captions have other words", _REMEDY)
    if is_trained == (_SHA256.fullmatch(text.encoder_sha256) is not None):
        problem = f"its prompts are read by {text.encoder[:60]!a}, SHA-256 {text.encoder_sha256[:70]!a}"
        yield Breach("configuration", problem, _REMEDY)
    most = {"width": LARGEST, "tokens": MOST_TOKENS, "vocabulary": MOST_CLASSES, "depth": DEEPEST}
    for name, largest in most.items():
        if getattr(text, name) > largest:
            yield Breach("configuration", f"text.{name} is {getattr(text, name):,}: at most {largest:,}", _REMEDY)


def _sampling(config: RunConfig) -> Iterator[Breach]:
    objective, sampler = config.objective, config.sampler
    kinds = ("ode", "sde") if isinstance(objective, FlowObjective) else ("ddpm", "ddim")
    if sampler.kind not in kinds:
        yield Breach("configuration", f"a {objective.kind} objective is not sampled by {sampler.kind}", _REMEDY)
    if isinstance(sampler, OdeSampler | SdeSampler) and sampler.points > MOST_POINTS:
        yield Breach("configuration", f"its sampler has {sampler.points:,} points: at most {MOST_POINTS:,}", _REMEDY)
    if isinstance(sampler, DdpmSampler | DdimSampler):
        if len(sampler.respacing) > LONGEST_RESPACING:
            yield Breach("configuration", "its respacing is too long", _REMEDY)
            return
        try:
            kept_steps(sampler.respacing, NUM_STEPS)
        except UserError as error:
            yield Breach("configuration", error.problem, error.remedy)


def _third_party(config: RunConfig) -> Iterator[Breach]:
    told = config.third_party
    assert told is not None, "a third party's"
    if not _PYTHON_FILE.fullmatch(told.file):
        yield Breach("backbone", f"{told.file[:80]!a} is not the name of a third party's file", _REMEDY)
    if len(told.sha256) != 64 or not set(told.sha256) <= set("0123456789abcdef"):
        yield Breach("backbone", "the digest of the third party's file is not 64 hexadecimal digits", _REMEDY)
    if not _SIZE.fullmatch(config.size):
        yield Breach("backbone", f"{config.size[:60]!a} is no name of a size", _REMEDY)
    if config.registers.preset not in dsr.PRESETS:
        yield _unknown_preset(config.registers)
    if problem := _unfit_dimensions(config.network):
        yield Breach("configuration", problem, _REMEDY)
    try:
        registry.require_new_name(config.backbone)
    except UserError as error:
        remedy = "withdraw the record where the file has become the project's own since, and run that; else rename it"
        yield Breach("backbone", f"a third party's cannot be called so: {error.problem}", remedy)


def _unknown_preset(registers: RegisterConfig) -> Breach:
    problem = f"there is no register preset named {registers.preset[:60]!a}"
    return Breach("backbone", problem, f"known: {', '.join(dsr.PRESETS)}")


def _unfit_dimensions(dimensions: Mapping[str, Any]) -> str:
    """Why a third party's network cannot be one; "" where nothing speaks against it."""
    missing = Network.model_fields.keys() - dimensions.keys() - {"mlp_ratio"}
    if missing:
        return f"its network does not say {sorted(missing)[0]}"
    if len(dimensions) > MOST_DIMENSIONS:
        return f"its network has {len(dimensions):,} dimensions: at most {MOST_DIMENSIONS}"
    for name, value in dimensions.items():
        if not _DIMENSION.fullmatch(name):
            return f"network.{name[:60]!a} is no name of a dimension"
        if not isinstance(value, str | int | float | None) or len(str(value)) > LONGEST_VALUE:
            return f"network.{name} is neither a number nor a word"
    return _too_large(dimensions)


def _too_large(dimensions: Mapping[str, Any]) -> str:
    """What of a network exceeds anything that is trained; "" where nothing does."""
    for name, value in dimensions.items():
        most = DEEPEST if "depth" in name else MOST_CLASSES if name == "num_classes" else LARGEST
        if isinstance(value, int | float) and abs(value) > most:
            return f"network.{name[:60]} is {value:g}, and at most {most:,} is counted here"
    return ""


def _network(config: RunConfig, network: Network) -> Iterator[Breach]:
    try:
        network.check()
    except UserError as error:
        yield Breach("configuration", error.problem, error.remedy)
    channels, side = config.latents.shape(config.task)
    for name, due in (("input_size", side), ("in_channels", channels), ("num_classes", config.task.num_classes)):
        if getattr(network, name) != due:
            problem = f"network.{name} is {getattr(network, name)}, and the images of {config.task.name} make it {due}"
            yield Breach("configuration", problem, _REMEDY)
    depth = sum(trunk.depth for trunk in network.trunk_shapes)
    if depth > DEEPEST:
        yield Breach("configuration", f"{depth:,} blocks: at most {DEEPEST} are counted", _REMEDY)
    if network.patch_tokens > MOST_TOKENS:
        yield Breach("configuration", f"{network.patch_tokens:,} tokens: at most {MOST_TOKENS:,} are counted", _REMEDY)


def _registers(config: RunConfig, network: Network) -> Iterator[Breach]:
    registers = config.registers
    preset = dsr.PRESETS.get(registers.preset)
    if preset is None:
        yield _unknown_preset(registers)
        return
    has = {name for name in _STAGES if getattr(registers, name) is not None}
    has |= {"encoder"} if registers.encoder is not None else set()
    due = set(preset.fields(network))
    due |= {"encoder"} if "encoder" in preset.stages and "encoder" not in registers.absent_stages else set()
    if has != due:
        shown = [", ".join(sorted(names)) or "nothing" for names in (has, due)]
        problem = f"its registers are called {registers.preset}, which has {shown[1]}, and have {shown[0]}"
        yield Breach("configuration", problem, _REMEDY)
    if registers.native_tokens != network.native_tokens:
        problem = f"native_tokens is {registers.native_tokens}, and its network has {network.native_tokens}"
        yield Breach("configuration", problem, _REMEDY)
    if registers.denoiser is not None and registers.denoiser.count > MOST_TOKENS:
        yield Breach("configuration", f"{registers.denoiser.count:,} registers: at most {MOST_TOKENS:,}", _REMEDY)
    for control in (registers.wider_mlp, registers.longer_training):
        if control is not None and control.factor > WIDEST_FACTOR:
            yield Breach("configuration", f"a factor of {control.factor:g}: at most {WIDEST_FACTOR:g}", _REMEDY)
    if registers.encoder is not None and not isinstance(config.latents, RaeLatents):
        yield Breach("configuration", "encoder registers need an encoder, and its latents have none", _REMEDY)
        return
    encoder = encoder_of(config)
    if registers.encoder is None or encoder is not None:
        try:
            dsr.check(registers, network, encoder)
        except UserError as error:
            yield Breach("configuration", error.problem, error.remedy)


def encoder_of(config: RunConfig) -> EncoderDefinition | None:
    """The encoder of a run's latents, where it is one that is known here by name."""
    latents = config.latents
    if not isinstance(latents, RaeLatents):
        return None
    try:
        return at_task(encoders.find(latents.encoder), latents, config.task)
    except UserError:
        return None
