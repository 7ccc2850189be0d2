"""DPG-Bench's scoring (arXiv 2403.05135) around whatever model answers its questions: none is shipped here (no torch).

The benchmark asks yes-or-no questions of each image.  They, and the prompts, are one CSV file of its repository.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Literal, Protocol

from PIL import Image
from pydantic import Field, ValidationError

from harness.comparability import ExtractorIdentity
from harness.errors import UserError, disk_error, first_few
from harness.frozen import Frozen, PositiveInt

COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
NO_PARENT = 0
# Side by side and below one another: how many pictures of a prompt one file may hold.
GRIDS: Mapping[int, tuple[int, int]] = {1: (1, 1), 4: (2, 2)}
_SHOWN = 5


class Question(Frozen):
    """A question, and by their numbers those `parents` that must be answered yes for it to mean anything.

    `category` is the detailed one, such as "attribute - color", whose first part is the `broad` one.
    """

    number: PositiveInt
    parents: tuple[PositiveInt, ...]
    category: str = Field(min_length=1)
    text: str = Field(min_length=1)

    @property
    def broad(self) -> str:
        """global, entity, attribute, relation or other."""
        return self.category.partition("-")[0].strip()


class Item(Frozen):
    """A prompt with its questions, in the order of the file.  Its image's file is called `name`."""

    name: str
    prompt: str
    questions: tuple[Question, ...]


class VisualQuestionAnswering(Protocol):
    """A model that answers questions about an image: what must be brought to score DPG-Bench."""

    identity: ExtractorIdentity

    def answers(self, image: Image.Image, questions: Sequence[str]) -> list[bool]:
        """Whether the answer is yes, one for each question."""


@dataclass(frozen=True)
class Answered:
    """An item with the answers to its questions, picture by picture: True is yes."""

    item: Item
    pictures: tuple[tuple[bool, ...], ...]

    @property
    def score(self) -> float:
        """The mean over pictures of the share of questions that count."""
        return sum(picture_score(self.item, answers) for answers in self.pictures) / len(self.pictures)


@dataclass(frozen=True)
class Summary:
    """DPG-Bench's numbers, all of 0..100: the headline `overall`, and shares of yes by category.

    `standard_error` is that of `overall` over items, None for a single one.
    """

    overall: float
    broad: Mapping[str, float]
    detailed: Mapping[str, float]
    standard_error: float | None


def read_items(path: Path) -> tuple[Item, ...]:
    """The items of DPG-Bench's CSV, in their order.

    All questions are read; the official script leaves out the first line of the file.  Raises UserError where columns
    are missing, or a line is none of the benchmark's.
    """
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if lacking := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise UserError(f"{path} lacks the columns {', '.join(lacking)}", "give DPG-Bench's dpg_bench.csv")
            for row in reader:
                rows[row["item_id"]].append(row)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}", "give DPG-Bench's dpg_bench.csv") from error
    except OSError as error:
        raise disk_error(path, error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {error}", "fetch it anew") from error
    if not rows:
        raise UserError(f"{path} holds no questions", "fetch it anew")
    return tuple(_item(path, name, each) for name, each in rows.items())


def pictures_of(image: Image.Image, count: Literal[1, 4]) -> list[Image.Image]:
    """The pictures in a file, row by row: the image itself, or the quarters of a grid of 2 x 2.

    Raises UserError for a grid whose sides are odd.
    """
    columns, rows = GRIDS[count]
    if image.width % columns or image.height % rows:
        raise UserError(
            f"an image of {image.width} x {image.height} is no grid of {count}", "give 2 x 2 equal pictures"
        )
    width, height = image.width // columns, image.height // rows
    corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
    return [image.crop((left, top, left + width, top + height)) for left, top in corners]


def ask(item: Item, pictures: Iterable[Image.Image], model: VisualQuestionAnswering) -> Answered:
    """All questions of an item, of each of its pictures."""
    questions = [question.text for question in item.questions]
    answered = tuple(tuple(model.answers(picture, questions)) for picture in pictures)
    assert answered, "no picture, no answers"
    assert all(len(answers) == len(questions) for answers in answered), "an answer to each question"
    return Answered(item, answered)


def picture_score(item: Item, answers: Sequence[bool]) -> float:
    """The share of an item's questions that count, 0..1: answered yes, and none of their parents counts for nothing.

    Parents are looked up in the order of the file, as the official script does: where they come first, as they do in
    DPG-Bench, one no takes away all that follows from it.
    """
    counts = {question.number: answer for question, answer in zip(item.questions, answers, strict=True)}
    for question in item.questions:
        counts[question.number] &= all(counts[parent] for parent in question.parents)
    return sum(counts.values()) / len(counts)


def summarise(answered: Sequence[Answered], categories_of: Literal["last", "all"] = "last") -> Summary:
    """The numbers of the official script, from answers alone.

    `overall` is the mean over items.  A category is the share of yes among its questions, whatever became of their
    parents, in the `last` picture of each item, as officially, or in `all`.
    """
    assert answered, "nothing was answered"
    scores = [each.score for each in answered]
    overall = sum(scores) / len(scores)
    return Summary(
        overall=100 * overall,
        broad=_shares((question.broad, answer) for question, answer in _asked(answered, categories_of)),
        detailed=_shares((question.category, answer) for question, answer in _asked(answered, categories_of)),
        standard_error=_standard_error(scores),
    )


def _item(path: Path, name: str, rows: Sequence[Mapping[str, str]]) -> Item:
    try:
        questions = tuple(map(_question, rows))
    except (ValueError, ValidationError, AttributeError) as error:
        raise UserError(
            f"{path}: a question of {name} is none of DPG-Bench's: {str(error).splitlines()[0]}", "fetch the file anew"
        ) from error
    numbers = [question.number for question in questions]
    unknown = {parent for question in questions for parent in question.parents} - set(numbers)
    if unknown or len(set(numbers)) < len(numbers):
        what = f"refers to {first_few(sorted(map(str, unknown)), _SHOWN)}" if unknown else "has a number twice"
        raise UserError(f"{path}: {name} {what} among its questions {numbers}", "fetch the file anew")
    return Item(name=name, prompt=rows[0]["text"], questions=questions)


def _question(row: Mapping[str, str]) -> Question:
    parents = [int(number) for number in row["dependency"].split(",")]
    return Question(
        number=int(row["proposition_id"]),
        parents=tuple(number for number in parents if number != NO_PARENT),
        category=row["tuple"].partition("(")[0].strip(),
        text=row["question_natural_language"],
    )


def _asked(answered: Iterable[Answered], categories_of: Literal["last", "all"]) -> Iterator[tuple[Question, bool]]:
    for each in answered:
        for answers in each.pictures if categories_of == "all" else each.pictures[-1:]:
            yield from zip(each.item.questions, answers, strict=True)


def _shares(named: Iterable[tuple[str, bool]]) -> dict[str, float]:
    found: dict[str, list[bool]] = defaultdict(list)
    for name, answer in named:
        found[name].append(answer)
    return {name: 100 * sum(answers) / len(answers) for name, answers in sorted(found.items())}


def _standard_error(scores: Sequence[float]) -> float | None:
    return None if len(scores) < 2 else 100 * stdev(scores) / len(scores) ** 0.5
