"""Carry out one run, from data to record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from harness import data, provenance
from harness.attachments import Attachment
from harness.build import build, build_guide, load_released, size_of
from harness.checkpoint import Checkpoints
from harness.circumstances import circumstances_of
from harness.codec import Codec
from harness.comparability import conditions_of
from harness.denoiser import Denoiser
from harness.distributed import ALONE, World, require_shares
from harness.files import write_bytes
from harness.generation import make, require_judges
from harness.machine import decide_precision, find_device, memory_explained, name_of
from harness.metrics import cost, outliers
from harness.norm_map_files import NormMapRecorder
from harness.open_codec import open_codec
from harness.outlier_records import OutlierStatistics
from harness.progress import say
from harness.records import Measurement, Provenance, RunRecord, SampleGrid
from harness.sample import Sampled
from harness.source import Source, open_source
from harness.spec import RaeLatents, RunConfig
from harness.store import record_name
from harness.train import Training, train
from harness.workspace import Workspace

FOR_TRAINING = (
    "take each batch in pieces (--accumulate 2, 4, ...), use more processes, or share the weights among them too"
    " (--sharding fsdp): the batch stays the recipe's"
)
FOR_SAMPLING = "make fewer images at once (--set execution.sampling_batch=64)"
CURVE_POINTS = 100
MOST_OF_THE_START = 0.05


@dataclass(frozen=True)
class Machine:
    """The device that a run found, the arithmetic that it uses there, and the code as it was then."""

    device: torch.device
    precision: str
    provenance: Provenance


def perform(
    config: RunConfig, space: Workspace, world: World = ALONE, *, until_trained: bool = False
) -> RunRecord | None:
    """Train, sample and measure one run in its workspace; every phase goes on from what is already there.

    Processes of a world share the work, and the first one has the record: None in the others, and in all of them where
    they stop when it is trained.  Raises UserError for what only shows here, as a batch too small to be shared, and
    for what another process could not do.
    """
    require_shares(config)
    with world.blaming():
        return _perform(config, space, world, until_trained=until_trained)


def _perform(config: RunConfig, space: Workspace, world: World, *, until_trained: bool) -> RunRecord | None:
    torch.set_num_threads(config.execution.threads)
    machine = _find_machine(config)
    require_judges(config, machine.device)
    with world.first_ahead():
        codec, latent_notes = open_codec(config, machine.device)
    guide = build_guide(config)
    denoiser = build(config).to(machine.device)
    with world.first_ahead():
        denoiser.prompts.prepare()
    size = size_of(config)
    findings = _Findings([*cost.measurements(config, size), *cost.decoding(config, codec)], latent_notes)
    if config.weights is None:
        source = _open_source(config, codec, findings, world)
        with world.first_ahead():
            checkpoints = Checkpoints(space.checkpoints, _origin(machine.provenance))
        with memory_explained("training", FOR_TRAINING):
            training = train(config, denoiser, source, checkpoints, machine.precision, world=world)
        findings.notes += checkpoints.notes
        findings.measurements += _speed(config, size, training, machine)
    else:
        source = Source(data.load_few(config.task, _folder(config), config.protocol.outlier_images), codec)
        training = _load(config, denoiser, findings)
    if until_trained:
        return None
    if world.is_first:
        findings.measurements += _reconstruction(config, codec, source)
    if _is_finite(denoiser, training):
        if world.is_first:
            _keep_weights(denoiser.state_dict(), space.weights)
            if training.second_ema:
                _keep_weights({**denoiser.state_dict(), **training.second_ema}, space.second_weights)
        made_from = Sampled(denoiser, codec, guide and guide.to(machine.device))
        with memory_explained("sampling", FOR_SAMPLING):
            made = make(config, space, made_from, machine.precision, world)
        if made is not None:
            findings.measurements = [*made.judged, *findings.measurements, made.cost]
            findings.notes += [*_ema_notes(config), *made.notes]
            findings.samples, findings.moments, findings.verdicts = made.samples, made.moments, made.verdicts
    if not world.is_first:
        return None
    if findings.samples is not None:
        recorder = NormMapRecorder(config, source)
        findings.statistics = outliers.probe(config, denoiser, source, recorder)
        findings.norm_maps = recorder.write(space.norm_maps)
        findings.measurements += outliers.summary(config.protocol, findings.statistics)
    findings.measurements.append(cost.peak_memory(machine.device))
    return _record(config, machine, training, findings, codec.weights_sha256)


def _open_source(config: RunConfig, codec: Codec, findings: "_Findings", world: World) -> Source:
    """The training images and their latents, whose encoding the processes share."""
    with world.first_ahead():
        images = data.load(config.task, _folder(config), Path(config.execution.runs) / "images")
    findings.notes += images.notes
    return open_source(config, images, codec)


def _folder(config: RunConfig) -> Path | None:
    return Path(config.execution.data) if config.execution.data else None


def _reconstruction(config: RunConfig, codec: Codec, source: Source) -> list[Measurement]:
    """How much of an image survives an encoder and its decoder; nothing where there is none."""
    if not isinstance(config.latents, RaeLatents):
        return []
    from harness.representation import reconstruction_of

    return [reconstruction_of(codec, source.images)]


def _speed(config: RunConfig, size: cost.Size, training: Training, machine: Machine) -> list[Measurement]:
    """How long the training took; how fast it was, all devices together, where it came to its end."""
    took = cost.duration("train_seconds", training.seconds)
    if training.diverged_at_step is not None:
        return [took]
    speed = cost.throughput(config, training.seconds)
    of_each = speed.value / config.execution.processes
    return [took, speed, *cost.utilisation(size, of_each, name_of(machine.device))]


@dataclass
class _Findings:
    """What is known of a run so far.  One that ends without samples has diverged."""

    measurements: list[Measurement]
    notes: list[str]
    statistics: list[OutlierStatistics] = field(default_factory=list)
    samples: SampleGrid | None = None
    moments: Attachment | None = None
    norm_maps: Attachment | None = None
    verdicts: Attachment | None = None


def _load(config: RunConfig, denoiser: Denoiser, findings: _Findings) -> Training:
    """No training: the weights of a released model."""
    assert config.weights is not None, "nothing to load"
    assert config.execution.weights is not None, "released weights without a place"
    load_released(config, denoiser, config.execution.weights, config.weights.sha256)
    findings.notes.append(f"not trained here: {config.weights.name} ({config.weights.entry})")
    return Training(torch.empty(0), 0.0, None)


def _find_machine(config: RunConfig) -> Machine:
    device = find_device(config.execution.device)
    precision = decide_precision(config.recipe.precision, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return Machine(
        device,
        precision,
        provenance.collect(
            device=str(device),
            device_name=name_of(device),
            precision=precision,
            threads=config.execution.threads,
            sampling_batch=config.execution.sampling_batch,
            execution=config.execution,
        ),
    )


def _origin(made_by: Provenance) -> str:
    """What may move the last digit of a number."""
    torch_version = made_by.versions["torch"]
    arithmetic = f"{made_by.device} {made_by.precision} with {made_by.threads} threads"
    return ", ".join([f"code {made_by.code_sha256[:12]}", f"torch {torch_version}", arithmetic, *_sharing(made_by)])


def _sharing(made_by: Provenance) -> list[str]:
    """Who shared a batch's sum, and whether kernels were fused, in words: nothing for what is usual."""
    words = [f"{made_by.processes} processes ({made_by.sharding})"] if made_by.processes > 1 else []
    words += [f"in {made_by.accumulate} pieces"] if made_by.accumulate > 1 else []
    return [*words, "compiled"] if made_by.compiled else words


def _is_finite(denoiser: Denoiser, training: Training) -> bool:
    weights_are = all(bool(torch.isfinite(weight).all()) for weight in denoiser.parameters())
    return training.diverged_at_step is None and weights_are


def _keep_weights(state: Mapping[str, torch.Tensor], path: Path) -> None:
    write_bytes(path, save({name: value.contiguous().cpu() for name, value in state.items()}))


def _ema_notes(config: RunConfig) -> list[str]:
    """An average that starts from the first weights, and is long for the training, makes noise."""
    initial = config.recipe.ema_decay**config.training_steps
    if config.weights is not None or initial <= MOST_OF_THE_START:
        return []
    return [f"{initial:.0%} of the EMA is still the untrained network: lower recipe.ema_decay, or train longer"]


def _record(
    config: RunConfig, machine: Machine, training: Training, findings: _Findings, decoder_sha256: str | None
) -> RunRecord:
    created = datetime.now(UTC)
    samples = findings.samples
    if samples is None:
        say("diverged: recorded as a result")
    else:
        samples = samples.model_copy(update={"file": f"{record_name(created, config)}.png"})
    return RunRecord(
        run_id=config.run_id,
        created=created,
        status="finished" if samples else "diverged",
        diverged_at_step=training.diverged_at_step,
        config=config.published(),
        conditions=conditions_of(config),
        circumstances=circumstances_of(config, machine.provenance, cost.evaluations(config), decoder_sha256),
        measurements=tuple(findings.measurements),
        outliers=tuple(findings.statistics),
        loss_curve=_curve(training),
        samples=samples,
        moments=findings.moments,
        norm_maps=findings.norm_maps,
        verdicts=findings.verdicts,
        notes=tuple(findings.notes),
        provenance=machine.provenance,
    )


def _curve(training: Training) -> tuple[tuple[int, float], ...]:
    """(last step, mean loss) of at most a hundred stretches; a stretch with a loss that is no number is left out."""
    if not len(training.losses):
        return ()
    steps = np.array_split(np.arange(len(training.losses)), min(CURVE_POINTS, len(training.losses)))
    means = [(int(stretch[-1]) + 1, float(training.losses[stretch].double().mean())) for stretch in steps]
    return tuple((step, mean) for step, mean in means if np.isfinite(mean))
