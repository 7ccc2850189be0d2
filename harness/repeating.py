"""Which command makes a recorded run once more, and what it sets beside the defaults (no torch)."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dsr import neurons
from harness import registry, tasks
from harness.encoders import ENCODERS
from harness.errors import UserError
from harness.registers import AddedRegisters, TrainedRegisters
from harness.resolve import DEFAULT_TASK, Request, resolve
from harness.spec import Execution, RaeLatents, RunConfig
from harness.text_config import WORDS, TextConfig

PROGRAM: Final = ("python", "-m", "harness", "run")
SECTIONS: Final = ("network", "registers", "task", "latents", "text", "objective", "recipe", "sampler", "protocol")

# What the images of a task with --data may be changed in; the rest is counted in them.
_OF_IMAGES: Final = ("image_size", "channels", "horizontal_flip")

# What follows from files that the user brings; and a field that is one value, though it is written as a table.
_OF_FILES: Final = {
    "latents.weights",
    "latents.decoder_weights",
    "latents.statistics",
    "protocol.guidance.guide",
    "registers.encoder.weights",
}
_WHOLE: Final = "neurons"


@dataclass(frozen=True)
class Setting:
    """A field that is not what its family has on its task: `default` is None where the default has no such field."""

    field: str
    default: Any
    value: Any


@dataclass(frozen=True)
class Repeat:
    """How a run is made once more.

    `command` is a line for a shell.  `is_sure` says that it was resolved here and gives the same run_id; else `needs`
    says what it takes besides: files that the record names by their content alone, or that something is not here.
    `settings` are None where the defaults cannot be worked out here.
    """

    command: str
    is_sure: bool
    needs: tuple[str, ...]
    settings: tuple[Setting, ...] | None


def repeat(config: RunConfig) -> Repeat:
    """The command that repeats a recorded run, resolved here and compared by its run_id.

    A record is a stranger's: no file that it names is opened or run.
    """
    needs = tuple(_needs(config))
    unknown = tuple(_unknown(config))
    if unknown or config.third_party is not None:
        return Repeat(_line(config, ()), is_sure=False, needs=(*needs, *unknown), settings=None)
    try:
        resolved = resolve(_request(config), needs_data=False)
        changes = _changes(resolved, config)
        again = resolve(_request(config, changes), needs_data=False)
    except UserError as error:
        return Repeat(_line(config, ()), is_sure=False, needs=(*needs, error.problem), settings=None)
    is_same = again.run_id == config.run_id
    if not (is_same or needs):
        rest = ", ".join(setting.field for setting in _differences(again, config))
        needs = (f"fields that no flag sets: {rest}",)
    settings = tuple(_differences(resolved, config))
    return Repeat(_line(config, changes), is_sure=is_same and not needs, needs=needs, settings=settings)


def _unknown(config: RunConfig) -> Iterator[str]:
    """Names that are none of this repository's: a file's path among them would be read."""
    encoder, neuron_list = _encoder(config), _neurons(config)
    if config.third_party is None and not _is_ours(config):
        yield f"a backbone {config.backbone} and a task {config.task.name}, which are not both here"
    if config.text is not None and _is_frozen(config.text):
        yield f"the text encoder {config.text.encoder}, whose files are not looked for"
    if encoder is not None and encoder not in ENCODERS:
        yield f"an encoder {encoder}, which is not here"
    if neuron_list is not None and neuron_list not in {each.name for each in neurons.shipped()}:
        yield f"the list of register neurons {neuron_list}, which is not here"


def _is_ours(config: RunConfig) -> bool:
    return config.third_party is None and config.backbone in registry.families() and config.task.name in tasks.TASKS


def _request(config: RunConfig, changes: tuple[str, ...] = ()) -> Request:
    """Images need not be here: what the record says of them is taken as found."""
    task = config.task
    located = tasks.Located(task, task.num_training_images or tasks.DIGITS_IMAGES)
    return Request(
        backbone=config.backbone,
        size=config.size,
        registers=config.registers.preset,
        task=task.name,
        seed=config.seed,
        neurons=_neurons(config),
        changes=changes,
        execution=Execution(encoder=_encoder(config)),
        located=located,
    )


def _neurons(config: RunConfig) -> str | None:
    in_encoder = config.registers.encoder
    return in_encoder.neuron_list if isinstance(in_encoder, AddedRegisters) else None


def _encoder(config: RunConfig) -> str | None:
    """The encoder, where it is not what the task has for the family."""
    if not (isinstance(config.latents, RaeLatents) and _is_ours(config)):
        return None
    usual = tasks.find(config.task.name).latents(registry.find(config.backbone))
    is_usual = isinstance(usual, RaeLatents) and usual.encoder == config.latents.encoder
    return None if is_usual else config.latents.encoder


def _changes(resolved: RunConfig, config: RunConfig) -> tuple[str, ...]:
    """What `--set` has to say: a kind first, which brings defaults of its own."""
    kinds = tuple(_assignment(setting) for setting in _differences(resolved, config) if setting.field.endswith(".kind"))
    if kinds:
        resolved = resolve(_request(config, kinds), needs_data=False)
    return (
        *kinds,
        *(_assignment(setting) for setting in _differences(resolved, config) if setting.field not in _OF_FILES),
    )


def _assignment(setting: Setting) -> str:
    return f"{setting.field}={_written(setting.value)}"


def _written(value: Any) -> str:
    """A value as `--set` reads it: a text that could be taken for something else is quoted."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except json.JSONDecodeError:
        return value if value == value.strip() else json.dumps(value)
    return json.dumps(value)


def _differences(default: RunConfig, config: RunConfig) -> Iterator[Setting]:
    """Every field in which a run differs from another, by its path."""
    for section in SECTIONS:
        ours, theirs = (_section(each, section) for each in (config, default))
        yield from _between(section, theirs, ours)


def _section(config: RunConfig, name: str) -> dict[str, Any]:
    section = getattr(config, name)
    if section is None:
        return {}
    whole: dict[str, Any] = section if isinstance(section, dict) else section.model_dump(mode="json")
    return json.loads(json.dumps(whole))  # type: ignore[no-any-return]


def _between(place: str, default: Mapping[str, Any], value: Mapping[str, Any]) -> Iterator[Setting]:
    for name in value:
        old, new = default.get(name), value[name]
        if isinstance(old, dict) and isinstance(new, dict) and name != _WHOLE:
            yield from _between(f"{place}.{name}", old, new)
        elif old != new:
            yield Setting(f"{place}.{name}", old, new)


def _line(config: RunConfig, changes: tuple[str, ...]) -> str:
    """The command, with the names of files in capitals where a record has their content alone."""
    words = [*PROGRAM, "--backbone", _backbone(config), "--registers", config.registers.preset]
    if config.task.name != DEFAULT_TASK:
        words += ["--task", config.task.name]
    words += ["--seed", str(config.seed), *_flags(config)]
    if _takes_images(config):
        words += ["--data", "DIR"]
        changes = (*(_of_image(config, name) for name in _OF_IMAGES), *changes)
    return shlex.join([*words, *(word for change in changes for word in ("--set", change))])


def _of_image(config: RunConfig, name: str) -> str:
    return f"task.{name}={_written(getattr(config.task, name))}"


def _backbone(config: RunConfig) -> str:
    if config.third_party is not None:
        return f"PATH/{config.third_party.file}:{config.exact_name}"
    definition = tasks.TASKS.get(config.task.name)
    is_usual = definition is not None and definition.size == config.size
    return config.backbone if is_usual else config.exact_name


def _takes_images(config: RunConfig) -> bool:
    definition = tasks.TASKS.get(config.task.name)
    return bool(config.task.data_fingerprint) and not (definition and definition.brings_images)


def _flags(config: RunConfig) -> Iterator[str]:
    """The flags of files that made the run: the record knows what they hold, and not where they are."""
    latents, guide, in_encoder = config.latents, config.protocol.guidance.guide, config.registers.encoder
    if (encoder := _encoder(config)) is not None:
        yield from ("--encoder", encoder)
    if (neuron_list := _neurons(config)) is not None:
        yield from ("--neurons", neuron_list)
    if _is_frozen(config.text):
        yield from ("--text-encoder", "TEXT_ENCODER")
    if isinstance(in_encoder, TrainedRegisters) and in_encoder.weights:
        yield from ("--registered-weights", "REGISTERED")
    if config.weights is not None:
        yield from ("--weights", "WEIGHTS")
    if guide is not None:
        yield from ("--guide", "GUIDE", "--guide-size", guide.backbone.removeprefix(f"{config.backbone}-"))
    if isinstance(latents, RaeLatents):
        if latents.decoder_weights:
            yield from ("--decoder", "DECODER")
        if latents.statistics:
            yield from ("--statistics", "STATISTICS")


def _is_frozen(text: TextConfig | None) -> bool:
    return text is not None and text.encoder != WORDS


def _needs(config: RunConfig) -> Iterator[str]:
    latents, guide, in_encoder = config.latents, config.protocol.guidance.guide, config.registers.encoder
    if config.third_party is not None:
        yield f"the backbone's file {config.third_party.file}, SHA-256 {config.third_party.sha256}"
    if _takes_images(config):
        yield f"the images of the task {config.task.name}, fingerprint {config.task.data_fingerprint}"
    if config.text is not None and _is_frozen(config.text):
        yield f"the text encoder {config.text.encoder}, SHA-256 {config.text.encoder_sha256}"
    if config.weights is not None:
        yield f"the weights {config.weights.name}, SHA-256 {config.weights.sha256}"
    if guide is not None:
        yield f"the weights of the guide {guide.backbone}, SHA-256 {guide.weights_sha256}"
    if isinstance(in_encoder, TrainedRegisters) and in_encoder.weights:
        yield f"the encoder's weights with trained registers, {in_encoder.weights}"
    if isinstance(latents, RaeLatents):
        files = {"the decoder": latents.decoder_weights, "the latents' statistics": latents.statistics}
        yield from (f"{what}, {name}" for what, name in files.items() if name)
