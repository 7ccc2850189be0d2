"""Decide again which images show what their prompts ask, by the objects found in them, and compare (no torch)."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from harness.attachments import path_beside
from harness.comparability import Basis
from harness.contributing.configurations import SHAPES
from harness.contributing.texts import breaches_of_texts
from harness.contributing.verdict import Breach
from harness.errors import UserError
from harness.evaluation_records import EvaluationRecord
from harness.metric_definitions import BY_PREFIX, GENEVAL, GENEVAL_SHAPES, OFFICIAL_PROMPTS
from harness.metrics.geneval.exact_detector import IDENTITY
from harness.metrics.geneval.official_prompts import LINES_SHA256, lines, parse_prompt, prompts_sha256
from harness.metrics.geneval.prompt import COLORS, TAGS, Prompt
from harness.metrics.geneval.rules import OFFICIAL
from harness.metrics.geneval.summary import summarise
from harness.metrics.geneval.values import measurements
from harness.metrics.geneval.verdict_files import decided_again, read_verdicts
from harness.metrics.geneval.verdicts import ImageVerdict, PromptVerdicts
from harness.records import Measurement, RunRecord
from harness.texts import prompts_of

# The bootstrap is seeded: another processor's sums differ in their last digits.
_RELATIVE: Final = 1e-9
# What no verdicts tell: how often images are right by the prompts of others.
_NOT_IN_VERDICTS: Final = frozenset({"chance"})
_PREFIXES: Final = {each.name: prefix for prefix, group in BY_PREFIX.items() for each in group}
_REMEDY: Final = "submit the verdicts and the values of one and the same evaluation, as they were written"

Record = RunRecord | EvaluationRecord


def breaches_of_verdicts(record: Record, path: Path) -> Iterator[Breach]:
    """What is wrong with the GenEval values of the record in the file `path`, and the verdicts that they come from."""
    told = [measurement for measurement in record.measurements if measurement.name in _PREFIXES]
    if record.verdicts is None or not told:
        if record.verdicts is not None:
            yield _unlike("it comes with verdicts, and says no value that follows from them")
        if told:
            yield _unlike(f"it says {told[0].name}, and comes without the verdicts on each prompt's images")
        return
    prefixes, bases = {_PREFIXES[each.name] for each in told}, {each.basis for each in told}
    basis = told[0].basis
    if len(prefixes) > 1 or len(bases) > 1 or basis is None:
        yield _unlike("its GenEval values are of several kinds or bases, and its verdicts of one")
        return
    try:
        verdicts = read_verdicts(path_beside(path, "verdicts"), record.verdicts)
    except UserError as error:
        yield Breach("verdicts", error.problem, error.remedy)
        return
    prompts = [each.prompt for each in verdicts]
    unfit = list(_texts(prompts))
    yield from unfit or _decisions(record, told, verdicts)
    (prefix,) = prefixes
    yield from _stands_for(record, prefix, basis, prompts)
    missing = [tag for tag in TAGS if tag not in {each.tag for each in prompts}]
    if missing and any(each.name == prefix for each in told):
        yield _of_prompts(f"{prefix} is the mean of six categories, and its prompts have none of {', '.join(missing)}")


def _texts(prompts: Sequence[Prompt]) -> Iterator[Breach]:
    """What is wrong with prompts that may be anybody's own."""
    written = lines(prompts)
    yield from breaches_of_texts(f"[{','.join(written.splitlines())}]".encode())
    try:
        for line in written.splitlines():
            parse_prompt(line)
    except UserError as error:
        yield Breach("prompts", error.problem, error.remedy)


def _decisions(record: Record, told: Sequence[Measurement], verdicts: Sequence[PromptVerdicts]) -> Iterator[Breach]:
    """Whether verdicts are on all images of the record, are those that the rules give, and give the record's values."""
    counts = [len(each.images) for each in verdicts]
    if sum(counts) != record.conditions.num_images:
        yield _unlike(f"its verdicts are on {sum(counts):,} images, and it is of {record.conditions.num_images:,}")
    elif len(set(counts)) > 1:
        yield _unlike(f"its verdicts are on {min(counts)} images of one prompt, and on {max(counts)} of another")
    if strange := _strange(verdicts):
        yield _unlike(strange)
        return
    try:
        again = decided_again(verdicts, OFFICIAL)
    except UserError as error:
        yield Breach("verdicts", error.problem, error.remedy)
        return
    if difference := _different(verdicts, again):
        yield _unlike(difference)
    elif counts and all(counts):
        due = measurements(summarise(again), _PREFIXES[told[0].name], told[0].basis or Basis())
        yield from (_unlike(problem) for problem in _contradicted(told, due))


def _stands_for(record: Record, prefix: str, basis: Basis, prompts: Sequence[Prompt]) -> Iterator[Breach]:
    """Whether the prompts, the detector and the options are those that the values' names and basis stand for."""
    reference, sha256 = basis.reference, prompts_sha256(prompts)
    if reference is None or reference.sha256 != sha256:
        yield _of_prompts(f"the prompts of its verdicts have the SHA-256 {sha256[:12]}..., and its values another")
        return
    is_official = sha256 == LINES_SHA256
    if is_official != (reference.name == OFFICIAL_PROMPTS):
        named = "are" if is_official else "are not"
        yield _of_prompts(f"its prompts {named} GenEval's own, and are called {reference.name[:60]!a}")
    if isinstance(record, RunRecord):
        due = prompts_of(record.config.task)
        if list(prompts) != list(due):
            yield _of_prompts(f"its prompts are not the {len(due)} that images of its task are made for")
    if not basis.settings.endswith(OFFICIAL.words()):
        yield _of_prompts(f"it was judged by {basis.settings[:80]!a}: GenEval's options are {OFFICIAL.words()}")
    if prefix == GENEVAL and isinstance(record, RunRecord) and not is_official:
        yield _of_prompts(f"a run's {GENEVAL} is of GenEval's own 553 prompts alone")
    detector = basis.extractor and basis.extractor.name
    if {record.conditions.task == SHAPES, basis.extractor == IDENTITY} != {prefix == GENEVAL_SHAPES}:
        problem = f"{prefix} says what {str(detector)[:60]!a} found in images of {record.conditions.task}"
        yield _of_prompts(f"{problem}: {GENEVAL_SHAPES} is of {SHAPES} by {IDENTITY.name}, and nothing else is")


def _strange(verdicts: Sequence[PromptVerdicts]) -> str:
    """What no detector finds, in the first image that has some; "" where none has."""
    return next(filter(None, (_at(*place, _impossible(image)) for place, image in _images(verdicts))), "")


def _different(verdicts: Sequence[PromptVerdicts], again: Sequence[PromptVerdicts]) -> str:
    """The first verdict that is not the one that the found objects give; "" where all are."""
    pairs = zip(_images(verdicts), _images(again), strict=True)
    return next((_at(*place, _said(told, due)) for (place, told), (_, due) in pairs if told != due), "")


def _images(verdicts: Sequence[PromptVerdicts]) -> Iterator[tuple[tuple[int, int, str], ImageVerdict]]:
    """Each image with the number of its prompt, its own among that prompt's, and the prompt's words."""
    for number, each in enumerate(verdicts):
        for place, image in enumerate(each.images):
            yield (number, place, each.prompt.prompt), image


def _at(number: int, place: int, prompt: str, problem: str) -> str:
    return problem and f"image {place} of prompt {number}, {prompt[:80]!a}, {problem}"


def _impossible(told: ImageVerdict) -> str:
    if not all(told.found.values()):
        return "has a class of which nothing was found, and which is named all the same"
    for x1, y1, x2, y2, confidence, color in itertools.chain.from_iterable(told.found.values()):
        if not (x1 <= x2 and y1 <= y2 and confidence <= 1):
            return f"has an object in {x1:g}, {y1:g}, {x2:g}, {y2:g} with a confidence of {confidence:g}"
        if color is not None and color not in COLORS:
            return f"has an object of the colour {color[:60]!a}: known: {', '.join(COLORS)}"
    return ""


def _said(told: ImageVerdict, due: ImageVerdict) -> str:
    words = {True: "right", False: "wrong"}
    if told.correct != due.correct:
        return f"is told {words[told.correct]}, and by the objects found in it {words[due.correct]}"
    if told.reason != due.reason:
        return f"is wrong for another reason than the objects found in it give: {due.reason[:80]!a}"
    return "has objects that the rules do not keep: confidences too low or out of order, or other classes and colours"


def _contradicted(told: Sequence[Measurement], due: Sequence[Measurement]) -> Iterator[str]:
    """What the record's values contradict of those that its verdicts give."""
    said = {each.name: each for each in told}
    for each in due:
        if each.name not in said:
            yield f"it does not say {each.name}, and its verdicts give {each.value:.10g}"
            continue
        one = said[each.name]
        if one.num_images != each.num_images:
            yield f"{each.name} is of {one.num_images} images, and its verdicts are on {each.num_images}"
        for what, (mine, theirs) in _numbers(one, each).items():
            if not _is_same(mine, theirs):
                yield f"{what} is {_shown(mine)}, and its verdicts give {_shown(theirs)}"
    yield from (f"it says {name}, which its verdicts do not give" for name in said.keys() - {each.name for each in due})


def _numbers(one: Measurement, other: Measurement) -> dict[str, tuple[float | None, float | None]]:
    """The numbers of two measurements of a name side by side, in words; None where there is none."""
    parts = (one.parts.keys() | other.parts.keys()) - _NOT_IN_VERDICTS
    return {
        one.name: (one.value, other.value),
        f"the standard error of {one.name}": (one.standard_error, other.standard_error),
        **{f"the {part[:60]} of {one.name}": (one.parts.get(part), other.parts.get(part)) for part in sorted(parts)},
    }


def _is_same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= _RELATIVE * max(1.0, abs(other))


def _shown(value: float | None) -> str:
    return "not said" if value is None else f"{value:.10g}"


def _unlike(problem: str) -> Breach:
    return Breach("verdicts", problem, _REMEDY)


def _of_prompts(problem: str) -> Breach:
    return Breach("prompts", problem, "make and judge images of the prompts that a value stands for")
