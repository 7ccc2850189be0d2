"""Our GenEval against the official tool: a check for each group of goldens."""

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.metrics.geneval.color_prompts import color_prompts
from harness.metrics.geneval.crops import CropOptions, crop_for_color
from harness.metrics.geneval.detections import Detections, Objects
from harness.metrics.geneval.geometry import overlap, relations
from harness.metrics.geneval.objects import OBJECTS
from harness.metrics.geneval.official_prompts import lines, official_prompts, parse_prompt
from harness.metrics.geneval.prompt import COLORS, RELATIONS
from harness.metrics.geneval.rules import Options, decide, kept
from harness.metrics.geneval.summary import official_report, summarise
from harness.metrics.geneval.verdicts import ImageVerdict, PromptVerdicts
from tests.encoder_goldens import EncoderGolden


def read_table(file: Path) -> list[Mapping[str, Any]]:
    """The rows of a table of decisions."""
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def verdicts_of(row: Mapping[str, Any]) -> PromptVerdicts:
    """What we decide of a row, whose detections and colours are given."""
    prompt = parse_prompt(json.dumps(row["m"]))

    def colors_of(name: str, rows: Sequence[int]) -> list[str]:
        return [COLORS[row["d"][name][index][5]] for index in rows]

    return PromptVerdicts(prompt=prompt, images=(decide(prompt, _detections(row), colors_of, Options(**row["o"])),))


def _detections(row: Mapping[str, Any]) -> Detections:
    return {name: Objects(_boxes(listed)) for name, listed in row["d"].items()}


def _boxes(listed: Sequence[Sequence[float]]) -> npt.NDArray[np.float32]:
    return np.array(listed, np.float64).reshape(-1, 6)[:, :5].astype(np.float32)


def _scoring(golden: EncoderGolden) -> None:
    rows = read_table(golden.folder / golden.facts["file"])
    assert len(rows) == golden.args["rows"]
    for number, row in enumerate(rows):
        (verdict,) = verdicts_of(row).images
        assert (verdict.correct, verdict.reason) == (row["correct"], row["reason"]), f"{golden.id} row {number}: {row}"
        counting = {
            name: kept(objects, row["m"]["tag"], Options(**row["o"])) for name, objects in _detections(row).items()
        }
        assert {name: chosen for name, chosen in counting.items() if chosen} == row["kept"], f"row {number}: {row}"


def _prompts(golden: EncoderGolden) -> None:
    prompts = official_prompts()
    texts = {
        "evaluation_metadata.jsonl": lines(prompts),
        "generation_prompts.txt": "".join(f"{prompt.prompt}\n" for prompt in prompts),
        "object_names.txt": (golden.folder / golden.facts["file"]).read_text(),
    }
    assert texts["object_names.txt"].splitlines() == list(OBJECTS)
    for name, text in texts.items():
        expected = golden.expected[name]
        assert hashlib.sha256(text.encode()).hexdigest() == expected["sha256"], name
        assert len(text.splitlines()) == expected["lines"]
        assert len(text.encode()) == expected.get("bytes", len(text.encode()))
    tags = [prompt.tag for prompt in prompts]
    assert {tag: tags.count(tag) for tag in tags} == golden.expected["per_tag"]
    for number, fields in golden.expected["spot_checks"].items():
        assert json.loads(lines([prompts[int(number)]])) == fields


def _functions(golden: EncoderGolden) -> None:
    """By what a case gives: boxes, an image, or a colour."""
    checks = {"position_threshold": _geometry, "cases": _crops, "colour": _color_prompts}
    (check,) = (check for given, check in checks.items() if given in golden.args)
    check(golden)


def _geometry(golden: EncoderGolden) -> None:
    pairs = list(zip(golden.arrays["in.box_a"], golden.arrays["in.box_b"], strict=True))
    seen = [relations(box, other, golden.args["position_threshold"]) for box, other in pairs]
    golden.check("relations", np.array([[relation in each for relation in RELATIONS] for each in seen]))
    golden.check("iou", np.array([overlap(box, other) for box, other in pairs]))


def _crops(golden: EncoderGolden) -> None:
    image = Image.fromarray(golden.arrays["in.image"])
    for number, case in enumerate(golden.args["cases"]):
        given = case["options"]
        options = CropOptions(background=given.get("bgcolor", "#999"), crop=given.get("crop", "1") == "1")
        mask = golden.arrays[f"in.mask{number}"] if case["mask"] else None
        shown = crop_for_color(image, golden.arrays[f"in.box{number}"], mask, options)
        golden.check(f"crop{number}", np.asarray(shown))


def _color_prompts(golden: EncoderGolden) -> None:
    for template, expected in golden.expected.items():
        name = re.sub(r"^a photo of a \{c\} ", "", template)
        assert list(color_prompts(name, golden.args["colour"])) == expected
    assert list(COLORS) == golden.args["order"]


def _summary(golden: EncoderGolden) -> None:
    rows = [json.loads(line) for line in (golden.folder / golden.facts["file"]).read_text().splitlines()]
    images: dict[str, list[ImageVerdict]] = {}
    for row in rows:
        images.setdefault(row["metadata"], []).append(ImageVerdict(correct=row["correct"], reason=row["reason"]))
    summary = summarise([_prompt_verdicts(line, given) for line, given in images.items()])
    assert official_report(summary) == golden.expected["stdout"]
    assert golden.expected == {
        "stdout": official_report(summary),
        "per_task": {tag: share.value for tag, share in summary.tags.items()},
        "overall": summary.overall.value,
        "images": summary.images.total,
        "prompts": summary.prompts.total,
        "image_accuracy": summary.images.value,
        "prompt_any_accuracy": summary.prompts.value,
    }


def _prompt_verdicts(line: str, images: Sequence[ImageVerdict]) -> PromptVerdicts:
    return PromptVerdicts(prompt=parse_prompt(line), images=tuple(images))


GENEVAL_CHECKS: Mapping[str, Callable[[EncoderGolden], None]] = {
    "geneval_prompts": _prompts,
    "geneval_scoring": _scoring,
    "geneval_functions": _functions,
    "geneval_summary": _summary,
}
