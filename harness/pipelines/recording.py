"""Sample a pretrained pipeline, probe it, have its images judged, and append the record; or find the stored one."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from pydantic import ValidationError

from harness.attachments import attachment_of
from harness.comparability import UNGUIDED, Circumstances, Conditions, GuidanceUsed
from harness.database import rebuild
from harness.errors import UserError, disk_error
from harness.evaluating import Evaluated
from harness.evaluation_records import EvaluationRecord, ImageSet
from harness.evaluation_store import append_evaluation, find_evaluation
from harness.files import require_writable, write_text
from harness.frozen import Frozen, PositiveInt
from harness.geneval_folder import ImageFolder, describe
from harness.locks import alone_in
from harness.machine import decide_precision, name_of, start
from harness.metrics.geneval.layout import look_through
from harness.metrics.geneval.official_prompts import prompts_sha256
from harness.metrics.geneval.prompt import Prompt
from harness.metrics.geneval.verdict_files import encode
from harness.pipelines.folder import PipelineFolder, fetched, find_pipeline
from harness.pipelines.identity import PipelineIdentity
from harness.pipelines.opening import OpenPipeline, open_pipeline, resolved
from harness.pipelines.probed import Keep, Probe, ProbedPipeline, ignore, probe, require_square
from harness.pipelines.sampling import sample
from harness.pipelines.settings import PipelineSettings
from harness.pipelines.structure import rows_of_an_image
from harness.progress import say
from harness.provenance import collect
from harness.records import Measurement, Provenance
from harness.spec import Execution

if TYPE_CHECKING:
    from harness.geneval_judging import GenevalJudge, JudgeNames

Kept = TypeVar("Kept", bound=Frozen)

CLASSIFIER_FREE_ROWS = 2
IMAGES, JUDGING, STATISTICS = "images", "judging", "outliers-"
IDENTITY, RECORD = "pipeline.json", "record.json"


@dataclass(frozen=True)
class Request:
    """What is to be made of which pipeline, a folder or a hub id; without a judge images are made and probed only."""

    name: str
    prompts: tuple[Prompt, ...]
    settings: PipelineSettings
    seed: int
    execution: Execution
    judge: "JudgeNames | None"


def run_pipeline(request: Request, *, again: bool = False) -> Evaluated:
    """The stored record of this, or a new one; images and statistics that an interrupted run left are kept.

    `again` makes a further record of what has one, from images that are made anew.  Raises UserError for a pipeline or
    a judge that cannot be opened, before anything is sampled, and for whatever shows on the way.
    """
    work = begin(request)
    judge = _open_judge(request.judge, work.device)
    results = Path(request.execution.results)
    require_writable(results)
    evaluation_id = work.evaluation_id(judge)
    with alone_in(work.place) as place:
        known = None if again else find_evaluation(results, evaluation_id)
        if known is not None:
            return Evaluated(known.record, known.path, is_new=False)
        if again and (place / RECORD).exists():
            _clear(place)
        found = _probed(work)
        _sampled(work)
        record, verdicts = _judged(work, found, judge, evaluation_id)
        path = append_evaluation(results, record, verdicts)
        write_text(place / RECORD, record.model_dump_json(indent=1) + "\n")
    for problem in rebuild(results).problems:
        say(f"left out of the database: {problem}")
    return Evaluated(record, path, is_new=True)


def shown_request(request: Request) -> dict[str, Any]:
    """What would be done, for `--dry-run`: no weights are fetched, hashed or read."""
    folder = find_pipeline(request.name)
    judge = request.judge and asdict(request.judge)
    return {
        "name": folder.name,
        "pipeline_class": folder.pipeline_class,
        "components": dict(folder.components),
        "prompts": len(request.prompts),
        "prompts_sha256": prompts_sha256(request.prompts),
        "seed": request.seed,
        "pipeline": resolved(folder, request.settings).model_dump(mode="json"),
        "judge": judge,
    }


def probe_pipeline(request: Request, *, drawn: bool) -> ProbedPipeline:
    """Probe a pipeline, and record nothing.  Raises UserError where what is to be drawn cannot be."""
    work = begin(request)
    if drawn:
        require_square(work.pipeline)
    return probe(work.pipeline, work.probed_prompts, request.seed, work.settings.noise_levels)


@dataclass(frozen=True)
class Work:
    """A request with everything decided: the folder of the pipeline, its digest, the device and the settings."""

    request: Request
    folder: PipelineFolder
    weights_sha256: str
    settings: PipelineSettings
    device: torch.device

    @cached_property
    def pipeline(self) -> OpenPipeline:
        """The pipeline, opened when it is asked for first."""
        return open_pipeline(self.folder, self.settings, self.weights_sha256, self.device)

    def close(self) -> None:
        """Give the pipeline's memory back."""
        self.__dict__.pop("pipeline", None)

    @property
    def probed_prompts(self) -> tuple[Prompt, ...]:
        """The first of the prompts."""
        return self.request.prompts[: self.settings.probed_prompts]

    @property
    def place(self) -> Path:
        """Where it works: equal for equal images, by whatever judge and probe.

        Another kind of device and other libraries make other images, and one set must not be of both.
        """
        import diffusers

        told = {
            "pipeline": self.folder.pipeline_class,
            "weights": self.weights_sha256,
            "components": self.folder.settings_sha256(),
            "settings": self.settings.model_dump(mode="json", exclude={"probe", "probed_prompts", "noise_levels"}),
            "prompts": prompts_sha256(self.request.prompts),
            "seed": self.request.seed,
            "made by": [self.device.type, diffusers.__version__, torch.__version__],
        }
        return Path(self.request.execution.runs) / _digest(told)

    @property
    def images(self) -> ImageFolder:
        """Where the images go."""
        return ImageFolder(self.place / IMAGES)

    @property
    def probe_file(self) -> Path:
        """Where the statistics are kept: another file for another probe."""
        told = [len(self.probed_prompts), self.settings.noise_levels]
        return self.place / f"{STATISTICS}{_digest(told)}.json"

    def evaluation_id(self, judge: "GenevalJudge | None") -> str:
        """Twelve digits: equal for equal images, probe and judge."""
        judged = judge and [judge.identity.model_dump(mode="json"), judge.settings]
        return _digest([self.place.name, self.probe_file.name if self.settings.probe else "", judged])

    def provenance(self) -> Provenance:
        """Of what is sampled here now."""
        is_cpu = self.device.type == "cpu"
        return collect(
            device=str(self.device),
            device_name=name_of(self.device),
            precision=self.settings.precision,
            threads=torch.get_num_threads(),
            sampling_batch=1 if is_cpu else self.settings.images_per_prompt,
        )


def begin(request: Request) -> Work:
    """Find the pipeline and its judge, have its weights fetched, and decide on what.

    Raises UserError where that cannot be: for prompts and judge before weights are fetched and hashed.
    """
    folder = find_pipeline(request.name)
    settings = resolved(folder, request.settings)
    _require_judged(request)
    device = start(request.execution.device, request.execution.threads)
    precision = decide_precision(settings.precision, device)
    folder = fetched(folder)
    settings = PipelineSettings.model_validate(settings.model_dump() | {"precision": precision})
    return Work(request, folder, folder.weights_sha256(), settings, device)


def _require_judged(request: Request) -> None:
    """Raise UserError where nobody could judge these prompts."""
    if request.judge is not None:
        from harness.geneval_judging import require_judge, require_known

        require_known(request.prompts)
        require_judge(request.judge)


def _open_judge(names: "JudgeNames | None", device: torch.device) -> "GenevalJudge | None":
    if names is None:
        return None
    from harness.geneval_judging import open_judge

    return open_judge(names, device)


def _clear(place: Path) -> None:
    """Forget what was made; the record goes last, so that a clearing that is cut short is done again."""
    for made in (IMAGES, JUDGING):
        shutil.rmtree(place / made, ignore_errors=True)
    for file in (*place.glob(f"{STATISTICS}*.json"), place / IDENTITY):
        file.unlink(missing_ok=True)
    (place / RECORD).unlink()


def _probed(work: Work) -> Probe | None:
    """The statistics that are there, or new ones; None where none are wanted.

    On a CPU the images of the probe are kept: there they are those that sampling makes.  On a GPU another batch makes
    others.
    """
    if not work.settings.probe:
        return None
    path = work.probe_file
    if path.exists():
        return _read_kept(path, Probe)
    describe(work.request.prompts, work.images)
    levels, seed = work.settings.noise_levels, work.request.seed
    keep = _kept_in(work.images) if work.device.type == "cpu" else ignore
    found = probe(work.pipeline, work.probed_prompts, seed, levels, keep).found
    write_text(path, found.model_dump_json(indent=1) + "\n")
    return found


def _kept_in(folder: ImageFolder) -> Keep:
    return lambda number, made: folder.keep(number, 0, made)


def _sampled(work: Work) -> None:
    describe(work.request.prompts, work.images)
    if not work.images.is_whole(len(work.request.prompts), work.settings.images_per_prompt):
        sample(work.pipeline, work.request.prompts, work.request.seed, work.images)


def _judged(
    work: Work, found: Probe | None, judge: "GenevalJudge | None", evaluation_id: str
) -> tuple[EvaluationRecord, bytes | None]:
    """The record, and the verdicts that lie beside it where there is a judge."""
    gallery = look_through(work.images.place)
    opened, images = _opened(work), gallery.images.model_copy(update={"name": work.folder.name})
    identity = opened.identity
    work.close()
    measurements, notes, verdicts = list[Measurement](), list(gallery.notes), None
    if judge is not None:
        from harness.geneval_judging import score_gallery

        with alone_in(work.place / JUDGING) as kept:
            scored = score_gallery(gallery, judge, kept, guidance_of(opened))
        measurements, notes, verdicts = scored.measurements, scored.notes, encode(scored.verdicts)
    if found is not None:
        measurements, notes = [*measurements, *found.measurements()], [*notes, *found.notes()]
    record = EvaluationRecord(
        evaluation_id=evaluation_id,
        created=datetime.now(UTC),
        images=images,
        title=work.folder.name,
        conditions=_conditions(gallery.images),
        circumstances=_circumstances(work, identity),
        measurements=tuple(measurements),
        notes=tuple(notes),
        verdicts=None if verdicts is None else attachment_of(verdicts),
        provenance=work.provenance(),
        pipeline=identity,
        outliers=() if found is None else found.outliers,
    )
    return record, verdicts


class Opened(Frozen):
    """What a pipeline said of itself when it was opened first, and how many rows its transformer has for an image."""

    identity: PipelineIdentity
    rows: PositiveInt | None


def _opened(work: Work) -> Opened:
    """What is kept of it, under the name that its folder has now, or found and kept."""
    path = work.place / IDENTITY
    if not path.exists():
        opened = Opened(identity=work.pipeline.identity, rows=rows_of_an_image(work.pipeline))
        write_text(path, opened.model_dump_json(indent=1) + "\n")
        return opened
    kept = _read_kept(path, Opened)
    return Opened(identity=kept.identity.model_copy(update={"name": work.folder.name}), rows=kept.rows)


def _read_kept(path: Path, kind: type[Kept]) -> Kept:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise disk_error(path, error) from error
    except ValidationError as error:
        raise UserError(f"{path} is damaged", "delete it: the same command makes it again") from error


def guidance_of(opened: Opened) -> GuidanceUsed:
    """How a pipeline's images are guided: whoever released it may have tuned the scale that it is given.

    By a further row of the transformer's batch it is classifier-free; without one a scale is told to the network
    itself, or to nobody.
    """
    scale = opened.identity.guidance_scale
    if scale is None or scale <= 1:
        return UNGUIDED
    is_classifier_free = opened.rows == CLASSIFIER_FREE_ROWS
    return GuidanceUsed(kind="classifier-free" if is_classifier_free else "unknown", scale=scale, chosen="unknown")


def _conditions(images: ImageSet) -> Conditions:
    return Conditions(
        num_images=images.num_images,
        channels=images.channels,
        height=images.height,
        width=images.width,
        labels="balanced",
        uint8_rule="round",
    )


def _circumstances(work: Work, identity: PipelineIdentity) -> Circumstances:
    return Circumstances(
        seed=work.request.seed,
        sampler=identity.scheduler,
        precision=work.settings.precision,
        tf32=torch.backends.cuda.matmul.allow_tf32 if work.device.type == "cuda" else None,
        checkpoint=identity.name,
        device=name_of(work.device),
    )


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
