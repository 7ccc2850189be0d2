"""Carry out one run, from data to record."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from harness import data, provenance
from harness.build import build, build_guide, load_released, size_of
from harness.checkpoint import Checkpoints
from harness.circumstances import circumstances_of
from harness.codec import Codec
from harness.comparability import UNGUIDED, conditions_of, guidance_used
from harness.denoiser import Denoiser
from harness.digits_judge import REFERENCE as DIGITS
from harness.evaluating import Scores, Setting, score_run
from harness.extractors import weights_by_extractor
from harness.files import sha256_of, write_bytes, write_whole
from harness.images import Pixels, grid
from harness.machine import decide_precision, find_device, name_of
from harness.metrics import cost, outliers
from harness.objective import is_adaptive
from harness.open_codec import open_codec
from harness.outlier_records import OutlierStatistics
from harness.progress import say
from harness.records import Measurement, Provenance, RunRecord, SampleGrid
from harness.sample import Sampled, label_of, sample_all
from harness.source import Source, open_source
from harness.spec import Guidance, RaeLatents, RunConfig
from harness.stopwatch import Stopwatch
from harness.store import record_name
from harness.train import Training, train
from harness.workspace import Workspace

GRID_ROWS, GRID_COLUMNS = 10, 10
CURVE_POINTS = 100
MOST_OF_THE_START = 0.05


@dataclass(frozen=True)
class Machine:
    """The device that a run found, the arithmetic that it uses there, and the code as it was then."""

    device: torch.device
    precision: str
    provenance: Provenance


def perform(config: RunConfig, space: Workspace) -> RunRecord:
    """Train, sample and measure one run in its workspace; every phase goes on from what is already there."""
    torch.set_num_threads(config.execution.threads)
    machine = _find_machine(config)
    codec, latent_notes = open_codec(config, machine.device)
    folder = Path(config.execution.data) if config.execution.data else None
    guide = build_guide(config)
    denoiser = build(config).to(machine.device)
    size = size_of(config)
    findings = _Findings([*cost.measurements(config, size), *cost.decoding(config, codec)], latent_notes)
    if config.weights is None:
        images = data.load(config.task, folder, Path(config.execution.runs) / "images")
        findings.notes += images.notes
        source = open_source(config, images, codec)
        checkpoints = Checkpoints(space.checkpoints, _origin(machine.provenance))
        training = train(config, denoiser, source, checkpoints, machine.precision)
        findings.notes += checkpoints.notes
        findings.measurements += _speed(config, size, training, machine)
    else:
        source = Source(data.load_few(config.task, folder, config.protocol.outlier_images), codec)
        training = _load(config, denoiser, findings)
    if isinstance(config.latents, RaeLatents):
        from harness.representation import reconstruction_of

        findings.measurements.append(reconstruction_of(codec, source.images))
    if _is_finite(denoiser, training):
        _keep_weights(denoiser.state_dict(), space.weights)
        if training.second_ema:
            _keep_weights({**denoiser.state_dict(), **training.second_ema}, space.second_weights)
        made_from = Sampled(denoiser, codec, guide and guide.to(machine.device))
        _sample_and_judge(config, space, made_from, machine, findings)
    if findings.samples is not None:
        findings.statistics = outliers.probe(config, denoiser, source)
        findings.measurements += outliers.summary(config.protocol, findings.statistics)
    findings.measurements.append(cost.peak_memory(machine.device))
    return _record(config, machine, training, findings, codec.weights_sha256)


def _speed(config: RunConfig, size: cost.Size, training: Training, machine: Machine) -> list[Measurement]:
    """How long the training took; how fast it was, where it came to its end."""
    took = cost.duration("train_seconds", training.seconds)
    if training.diverged_at_step is not None:
        return [took]
    speed = cost.throughput(config, training.seconds)
    return [took, speed, *cost.utilisation(size, speed.value, name_of(machine.device))]


@dataclass
class _Findings:
    """What is known of a run so far.  One that ends without samples has diverged."""

    measurements: list[Measurement]
    notes: list[str]
    statistics: list[OutlierStatistics] = field(default_factory=list)
    samples: SampleGrid | None = None


def _load(config: RunConfig, denoiser: Denoiser, findings: _Findings) -> Training:
    """No training: the weights of a released model."""
    assert config.weights is not None, "nothing to load"
    assert config.execution.weights is not None, "released weights without a place"
    load_released(config, denoiser, config.execution.weights, config.weights.sha256)
    findings.notes.append(f"not trained here: {config.weights.name} ({config.weights.entry})")
    return Training(torch.empty(0), 0.0, None)


def _sample_and_judge(
    config: RunConfig, space: Workspace, made_from: Sampled, machine: Machine, findings: _Findings
) -> None:
    """Sample as the protocol says, and where that guides without guidance too: only that compares with everyone's."""
    parts = _parts_of(space, made_from.codec)
    with Stopwatch(space.folder / "sampling-seconds") as watch:
        pixels = sample_all(config, made_from, parts, machine.precision, watch.keep)
    findings.measurements.append(cost.duration("sampling_seconds", watch.seconds))
    if pixels is None:
        findings.notes.append("the training ended well, and sampling gave values that are no numbers")
        return
    labels = label_of(config, np.arange(len(pixels)))
    _keep_samples(pixels, labels, space.samples)
    scores = _judge(config, space.samples, space, machine)
    findings.notes += [*_ema_notes(config), *_sampling_notes(config, machine), *scores.notes]
    judged = scores.measurements
    findings.samples = _picture(config, pixels, space.picture)
    if guidance_used(config.protocol.guidance) != UNGUIDED:
        plain = _without_guidance(config)
        unguided = sample_all(plain, made_from, parts.with_name(f"{parts.name}-unguided"), machine.precision, _ignore)
        if unguided is None:
            findings.notes.append("sampling without guidance gave values that are no numbers")
        else:
            _keep_samples(unguided, labels, space.unguided_samples)
            judged = [*judged, *_judge(plain, space.unguided_samples, space, machine).measurements]
    findings.measurements[:0] = judged


def _judge(config: RunConfig, samples: Path, space: Workspace, machine: Machine) -> Scores:
    """What samples score against the references of the task, and those that were asked for."""
    execution = config.execution
    names = [*([DIGITS.name] if config.task.metric == "fd_digits" else []), *execution.references]
    if not names:
        return Scores([], ["not judged: name references (--references, or later `eval --run`)"])
    setting = Setting(
        references=Path(execution.references_dir),
        device=machine.device,
        weights=weights_by_extractor(execution.extractor_weights),
    )
    return score_run(samples, names, guidance_used(config.protocol.guidance), setting, space.features)


def _without_guidance(config: RunConfig) -> RunConfig:
    protocol = config.protocol.model_copy(update={"guidance": Guidance()})
    return config.model_copy(update={"protocol": protocol})


def _ignore() -> None:
    """Time of sampling is that of the protocol's own samples."""


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
        ),
    )


def _origin(made_by: Provenance) -> str:
    """What may move the last digit of a number."""
    torch_version = made_by.versions["torch"]
    arithmetic = f"{made_by.device} {made_by.precision} with {made_by.threads} threads"
    return f"code {made_by.code_sha256[:12]}, torch {torch_version}, {arithmetic}"


def _is_finite(denoiser: Denoiser, training: Training) -> bool:
    weights_are = all(bool(torch.isfinite(weight).all()) for weight in denoiser.parameters())
    return training.diverged_at_step is None and weights_are


def _keep_weights(state: Mapping[str, torch.Tensor], path: Path) -> None:
    write_bytes(path, save({name: value.contiguous().cpu() for name, value in state.items()}))


def _parts_of(space: Workspace, codec: Codec) -> Path:
    """Batches of images belong to the weights that made them, and to what decodes them."""
    name = sha256_of(space.weights)[:12]
    return space.sample_parts / (name if codec.weights_sha256 is None else f"{name}-{codec.weights_sha256[:12]}")


def _keep_samples(pixels: Pixels, labels: data.Labels, path: Path) -> None:
    def write(part: Path) -> None:
        with part.open("wb") as out:
            np.savez(out, arr_0=pixels.transpose(0, 2, 3, 1), labels=labels)

    write_whole(path, write)


def _picture(config: RunConfig, pixels: Pixels, path: Path) -> SampleGrid:
    """A row for each class, or for the first ten; its images in the order they were made, none picked."""
    classes = config.task.num_classes
    rows, columns = min(classes, GRID_ROWS), min(len(pixels) // classes, GRID_COLUMNS)
    indices = np.arange(rows)[:, None] + classes * np.arange(columns)
    encoded = BytesIO()
    grid(pixels[indices.ravel()], columns).save(encoded, "PNG")
    write_bytes(path, encoded.getvalue())
    return SampleGrid(
        file="to-be-named.png",
        sha256=hashlib.sha256(encoded.getvalue()).hexdigest(),
        rows=rows,
        columns=columns,
    )


def _ema_notes(config: RunConfig) -> list[str]:
    """An average that starts from the first weights, and is long for the training, makes noise."""
    initial = config.recipe.ema_decay**config.training_steps
    if config.weights is not None or initial <= MOST_OF_THE_START:
        return []
    return [f"{initial:.0%} of the EMA is still the untrained network: lower recipe.ema_decay, or train longer"]


def _sampling_notes(config: RunConfig, machine: Machine) -> list[str]:
    if is_adaptive(config.sampler):
        cause = "the adaptive solver chooses its steps by an error over the whole batch"
        return [f"images depend on the sampling batch within the solver's tolerances: {cause}"]
    if machine.device.type == "cuda":
        return ["images depend on the sampling batch by rounding: matrix products of other shapes on a GPU"]
    return []


def _record(
    config: RunConfig, machine: Machine, training: Training, findings: _Findings, decoder_sha256: str | None
) -> RunRecord:
    created = datetime.now(UTC)
    samples = findings.samples
    if samples is None:
        say("diverged: recorded as a result")
    else:
        samples = samples.model_copy(update={"file": f"{record_name(created, config)}.png"})
    nfe = next((int(m.value) for m in findings.measurements if m.name == "nfe"), None)
    return RunRecord(
        run_id=config.run_id,
        created=created,
        status="finished" if samples else "diverged",
        diverged_at_step=training.diverged_at_step,
        config=config.published(),
        conditions=conditions_of(config),
        circumstances=circumstances_of(config, machine.provenance, nfe, decoder_sha256),
        measurements=tuple(findings.measurements),
        outliers=tuple(findings.statistics),
        loss_curve=_curve(training),
        samples=samples,
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
