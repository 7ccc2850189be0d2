"""Evaluations of images by GenEval's prompts, as somebody sends them: good ones, and ways to change them."""

import gzip
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness import store
from harness.attachments import attachment_of, path_beside
from harness.comparability import Basis, Circumstances, Conditions, ExtractorIdentity, ReferenceIdentity
from harness.evaluation_records import EvaluationRecord, ImageSet
from harness.evaluation_store import append_evaluation
from harness.metric_definitions import GENEVAL, OFFICIAL_PROMPTS
from harness.metrics.geneval.detections import ColorsOf, Detections, Objects
from harness.metrics.geneval.official_prompts import official_prompts, prompts_sha256
from harness.metrics.geneval.prompt import TAGS, Prompt
from harness.metrics.geneval.rules import OFFICIAL, decide
from harness.metrics.geneval.summary import summarise
from harness.metrics.geneval.values import measurements
from harness.metrics.geneval.verdict_files import encode, write_verdicts
from harness.metrics.geneval.verdicts import ImageVerdict, PromptVerdicts
from harness.records import Measurement
from tests.submissions.folder import Fields, Folder, edited

Lines = list[dict[str, Any]]
STEP = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def some_prompts() -> list[Prompt]:
    """Three of each category: somebody's own set, with which a test is done in a moment."""
    by_tag = {tag: [prompt for prompt in official_prompts() if prompt.tag == tag] for tag in TAGS}
    return [prompt for tag in TAGS for prompt in by_tag[tag][: 2 + (tag == "colors")]]


def decided(prompts: Sequence[Prompt], *, each: int = 2) -> list[PromptVerdicts]:
    """Verdicts on `each` images of every prompt: the objects of the first are as asked for, of others more rarely."""
    return [
        PromptVerdicts(
            prompt=prompt, images=tuple(_decided(prompt, (number * image) % 3 == 0) for image in range(each))
        )
        for number, prompt in enumerate(prompts)
    ]


def _decided(prompt: Prompt, is_right: bool) -> ImageVerdict:
    return decide(prompt, *_found(prompt, 1.0 if is_right else 0.0), OFFICIAL)


def _found(prompt: Prompt, share: float) -> tuple[Detections, ColorsOf]:
    """What shows a prompt: as many objects as are asked for, or a `share` of them, side by side or in their places."""
    found, colors = {}, {}
    for number, clause in enumerate(prompt.include):
        right, down = STEP[clause.position[0]] if clause.position else (2 * number, 2 * number)
        count = clause.count if share == 1.0 else clause.count - 1
        corners = [(200 + 100 * right + 30 * k, 200 + 100 * down) for k in range(count)]
        rows = [(x, y, x + 20, y + 20, 0.99 - k / 1000) for k, (x, y) in enumerate(corners)]
        if rows:
            found[clause.object_class] = Objects(np.array(rows, np.float32))
        colors[clause.object_class] = clause.color or "red"
    return found, lambda name, asked: [colors[name]] * len(asked)


def basis_of(prompts: Sequence[Prompt], name: str) -> Basis:
    """As a detector's with its judge of colours."""
    return Basis(
        extractor=ExtractorIdentity(name="mask2former+clip", version="1", weights_sha256="4" * 64),
        reference=ReferenceIdentity(name=name, sha256=prompts_sha256(prompts)),
        settings=f"detector {'5' * 12}, clip {'6' * 12}, {OFFICIAL.words()}",
    )


def judged(folder: Folder, prompts: Sequence[Prompt], name: str, each: int = 2) -> Path:
    """An evaluation of images of these prompts, which are called so, with its verdicts beside it."""
    verdicts = decided(prompts, each=each)
    file = folder.results.parent / "verdicts.jsonl.gz"
    attachment = write_verdicts(file, verdicts)
    measured = tuple(measurements(summarise(verdicts), GENEVAL, basis_of(prompts, name)))
    record = _record(folder, measured, num_images=each * len(prompts)).model_copy(update={"verdicts": attachment})
    return append_evaluation(folder.results, record, file.read_bytes())


def _record(folder: Folder, measured: tuple[Measurement, ...], num_images: int) -> EvaluationRecord:
    stored = store.read(folder.none)
    assert isinstance(stored, store.Stored), stored
    images = ImageSet(
        name="mine",
        kind="folder",
        sha256="7" * 64,
        num_images=num_images,
        channels=3,
        height=512,
        width=512,
        least_pixel=0,
        greatest_pixel=255,
        duplicates=0,
    )
    return EvaluationRecord(
        evaluation_id="abcdef012345",
        created=datetime(2026, 11, 21, 13, tzinfo=UTC),
        images=images,
        conditions=Conditions(num_images=num_images, channels=3, height=512, width=512),
        circumstances=Circumstances(),
        measurements=measured,
        provenance=stored.record.provenance,
    )


def mine(folder: Folder) -> Path:
    """An evaluation by a few prompts, called by their own name."""
    return judged(folder, some_prompts(), "mine")


def official(folder: Folder) -> Path:
    """An evaluation by GenEval's own prompts."""
    return judged(folder, official_prompts(), OFFICIAL_PROMPTS, each=1)


def with_verdicts(change: Callable[[Lines], object], *, named: bool = True) -> Callable[[Folder], object]:
    """Verdicts that say something else; a record that has them `named` has their digest and that of their prompts."""

    def spoil(folder: Folder) -> None:
        path = mine(folder)
        said = [json.loads(line) for line in gzip.decompress(path_beside(path, "verdicts").read_bytes()).splitlines()]
        change(said)
        verdicts = [PromptVerdicts.model_validate(line) for line in said]
        digest = prompts_sha256([each.prompt for each in verdicts])
        with_file(path, encode(verdicts), digest if named else None)

    return spoil


def with_file(path: Path, content: bytes, prompts: str | None = None) -> None:
    """Give a record another file of verdicts, which it names rightly."""
    path_beside(path, "verdicts").write_bytes(content)

    def change(fields: Fields) -> None:
        fields["verdicts"] = attachment_of(content).model_dump()
        for each in fields["measurements"] if prompts else []:
            each["basis"]["reference"]["sha256"] = prompts

    edited(path, change)


def with_values(change: Callable[[Fields], object]) -> Callable[[Folder], object]:
    """A record that says something else of its verdicts: `change` gets the measurements by their names."""

    def spoil(folder: Folder) -> None:
        edited(mine(folder), lambda fields: change({each["name"]: each for each in fields["measurements"]}))

    return spoil
