"""GenEval's rules where they decide: thresholds, clauses that lean on each other, and verdicts decided again."""

import gzip
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UserError
from harness.metrics.geneval.detections import Detections, Objects
from harness.metrics.geneval.geometry import relations
from harness.metrics.geneval.official_prompts import parse_prompt
from harness.metrics.geneval.prompt import Clause, Prompt
from harness.metrics.geneval.rules import OFFICIAL, Options, decide, kept
from harness.metrics.geneval.verdict_files import decided_again, decode, encode, read_verdicts, write_verdicts
from harness.metrics.geneval.verdicts import ImageVerdict, PromptVerdicts
from tests.upstream_geneval import read_table, verdicts_of

TABLES = sorted((Path(__file__).parent / "goldens" / "encoder").glob("geneval_table_*.jsonl.gz"))
CAKES = parse_prompt('{"tag": "t", "include": [{"class": "cake", "count": 1, "color": "red"}], "prompt": "a red cake"}')
Row = tuple[float, float, float, float, float]


def _objects(*rows: Row) -> Objects:
    return Objects(np.array(rows, np.float32).reshape(-1, 5))


def _at(x: float, y: float, confidence: float = 0.99, size: float = 10) -> Row:
    return x - size / 2, y - size / 2, x + size / 2, y + size / 2, confidence


def _prompt(*include: dict[str, Any], tag: str = "own", exclude: Sequence[dict[str, Any]] = ()) -> Prompt:
    return parse_prompt(json.dumps({"tag": tag, "include": include, "exclude": exclude, "prompt": "a photo"}))


def _cake(count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": "cake", "count": count, **more}


def _dog(count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": "dog", "count": count, **more}


def _decided(prompt: Prompt, detections: Detections, *colors: str, **options: Any) -> ImageVerdict:
    """Where the object in row i of any class has the i-th colour."""
    return decide(prompt, detections, lambda _, rows: [colors[row] for row in rows], Options(**options))


@pytest.mark.parametrize(("tag", "threshold"), [("counting", 0.9), ("single_object", 0.3), ("a tag of one's own", 0.3)])
def test_a_confidence_equal_to_the_threshold_does_not_count(tag: str, threshold: float) -> None:
    just_above = float(np.nextafter(np.float32(threshold), np.float32(1)))
    assert kept(_objects(_at(0, 0, threshold), _at(0, 0, just_above)), tag) == [1]


def test_the_most_confident_come_first_and_of_equals_the_last() -> None:
    objects = _objects(*(_at(0, 0, confidence) for confidence in (0.5, 0.7, 0.5, 0.9)))
    assert kept(objects, "own") == [3, 1, 2, 0]
    assert kept(objects, "own", Options(max_objects=2)) == [3, 1]


def test_an_overlap_equal_to_the_limit_is_left_out() -> None:
    """Widths count their last pixel: 10 of 20 pixels are shared, one half exactly."""
    first, half, beside = (0, 0, 19, 9, 0.9), (0, 0, 9, 9, 0.8), (20, 0, 29, 9, 0.7)
    objects = _objects(first, half, beside)
    assert kept(objects, "own", Options(max_overlap=0.5)) == [0, 2]
    assert kept(objects, "own", Options(max_overlap=0.51)) == [0, 1, 2]
    assert kept(objects, "own") == [0, 1, 2]


def test_what_was_left_out_for_its_overlap_leaves_out_nothing() -> None:
    chain = _objects((0, 0, 9, 9, 0.9), (4, 0, 13, 9, 0.8), (8, 0, 17, 9, 0.7))
    assert kept(chain, "own", Options(max_overlap=0.3)) == [0, 2]


def _relations(box: Row, other: Row, threshold: float = 0.1) -> tuple[str, ...]:
    first, second = _objects(box, other).boxes
    return relations(first, second, threshold)


def test_centres_in_one_place_have_no_direction() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _relations(_at(5, 5), _at(5, 5, size=30), 0.0) == ()
        assert _relations(_at(5, 5), _at(5, 5), 0.1) == ()
        assert _relations(_at(5, 5), _at(5.0005, 5), 0.0) == ()


def test_a_direction_is_what_the_whole_distance_has_beyond_the_sizes() -> None:
    """Of 18 pixels, 10 are beyond a tenth of the sizes; of 15 only 7, which is less than half."""
    assert _relations(_at(18, 0, size=40), _at(0, 0, size=40)) == ("right of",)
    assert _relations(_at(15, 0, size=40), _at(0, 0, size=40)) == ()
    assert _relations(_at(-90, -90), _at(0, 0)) == ("left of", "above")
    assert _relations(_at(0, 90), _at(0, 0)) == ("below",)


def test_only_the_most_confident_are_asked_for_their_colour_and_once() -> None:
    asked = []

    def colors_of(name: str, rows: Sequence[int]) -> list[str]:
        asked.append((name, list(rows)))
        return ["red"] * len(rows)

    detections = {"cake": _objects(_at(0, 0, 0.5), _at(9, 9, 0.8), _at(5, 5, 0.7)), "dog": _objects(_at(1, 1))}
    prompt = _prompt(_cake(1, color="red"), _cake(2, color="red"), _dog(), _dog(2, color="red"), _cake(4, color="red"))
    verdict = decide(prompt, detections, colors_of)
    assert asked == [("cake", [1, 2])]
    assert [color for *_, color in verdict.found["cake"]] == ["red", "red", None]
    assert verdict.reason == "expected dog>=2, found 1\nexpected cake>=4, found 3"


def test_one_object_may_satisfy_two_clauses() -> None:
    verdict = _decided(_prompt(_cake(color="red"), _cake(color="red")), {"cake": _objects(_at(0, 0))}, "red")
    assert verdict.correct


def test_colours_are_told_in_the_official_order() -> None:
    cakes = {"cake": _objects(*(_at(0, 0, confidence) for confidence in (0.9, 0.8, 0.7, 0.6)))}
    verdict = _decided(_prompt(_cake(4, color="blue")), cakes, "white", "blue", "white", "orange")
    assert verdict.reason == "expected blue cake>=4, found 1 blue; and 1 orange, 1 blue, 2 white"


def test_a_wrong_colour_is_the_reason_before_a_wrong_place() -> None:
    prompt = _prompt(_dog(), _cake(color="red", position=("above", 0)))
    detections = {"dog": _objects(_at(0, 0)), "cake": _objects(_at(0, 50))}
    assert _decided(prompt, detections, "blue").reason == "expected red cake>=1, found 0 red; and 1 blue"
    assert _decided(prompt, detections, "red").reason == "expected cake above target, found below target"


def test_a_clause_that_failed_is_no_target() -> None:
    prompt = _prompt(_dog(), _cake(position=("left of", 0)), _dog(position=("right of", 1)))
    verdict = _decided(prompt, {"cake": _objects(_at(0, 0))})
    reasons = ["expected dog>=1, found 0", "no target for cake to be left of", "expected dog>=1, found 0"]
    assert verdict.reason.splitlines() == reasons


def test_every_object_must_lie_so_of_every_object_of_the_target() -> None:
    prompt = _prompt(_dog(2), _cake(2, position=("left of", 0)))
    dogs, cakes = _objects(_at(90, 0), _at(50, 0, 0.9)), _objects(_at(0, 0), _at(50, 0, 0.9))
    assert _decided(prompt, {"dog": dogs, "cake": _objects(_at(0, 0), _at(10, 0))}).correct
    # None of the four places has two words between "found" and "target".
    assert _decided(prompt, {"dog": dogs, "cake": cakes}).reason == "expected cake left of target, found  target"


def test_what_is_excluded_is_counted_whole() -> None:
    prompt = _prompt(_dog(1), exclude=[_dog(2), _cake(1)])
    verdict = _decided(prompt, {"dog": _objects(_at(0, 0), _at(9, 9), _at(5, 5)), "cat": _objects(_at(0, 0))})
    assert (verdict.correct, verdict.reason) == (False, "expected dog<2, found 3")
    assert list(verdict.found) == ["dog"]
    assert _decided(prompt, {"dog": _objects(_at(0, 0))}).correct


def test_a_later_clause_is_no_target_and_no_prompt_says_so() -> None:
    first = Clause(object_class="cake", count=1, position=("above", 1))
    unread = Prompt(tag="own", include=(first, Clause(object_class="dog", count=1)), prompt="")
    verdict = _decided(unread, {"cake": _objects(_at(0, 0)), "dog": _objects(_at(0, 50))})
    assert verdict.reason == "no target for cake to be above"
    with pytest.raises(UserError, match="no clause 1 before it"):
        _prompt(_cake(position=("above", 1)), _dog())


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name.split(".")[0])
def test_verdicts_are_decided_again_from_what_was_found(table: Path) -> None:
    """Through the file, for thousands of images: the same decisions, reasons and objects, to the last bit."""
    by_options: dict[str, list[PromptVerdicts]] = {}
    for row in read_table(table):
        by_options.setdefault(json.dumps(row["o"]), []).append(verdicts_of(row))
    for options, verdicts in by_options.items():
        assert decided_again(decode(encode(verdicts)), Options(**json.loads(options))) == verdicts


def test_equally_confident_objects_are_decided_again_in_their_order() -> None:
    cakes = {"cake": _objects(_at(0, 0, 0.5), _at(50, 0, 0.5), _at(90, 0, 0.5))}
    verdict = _decided(CAKES, cakes, "red", "blue", "green")
    assert verdict.reason == "expected red cake>=1, found 0 red; and 1 green"
    given = [PromptVerdicts(prompt=CAKES, images=(verdict,))]
    assert decided_again(given) == given


def test_what_is_stored_is_the_shortest_decimal_of_each_number() -> None:
    verdict = _decided(_prompt(_cake()), {"cake": _objects((0.1, 1 / 3, 314.1, 400, 0.9881))})
    assert verdict.found["cake"] == ((0.1, 0.33333334, 314.1, 400.0, 0.9881, None),)


def test_a_verdict_that_was_changed_is_not_decided_again_alike() -> None:
    verdict = _decided(CAKES, {"cake": _objects(_at(0, 0, 0.5))}, "blue")
    (cake,) = verdict.found["cake"]
    changes: list[dict[str, Any]] = [
        {"correct": True, "reason": ""},
        {"found": {"cake": ((*cake[:4], 0.3, "blue"),)}},
        {"found": {"cake": ((*cake[:5], "red"),)}},
        {"found": {"cake": (cake,), "dog": (cake,)}},
    ]
    for change in changes:
        given = [PromptVerdicts(prompt=CAKES, images=(verdict.model_copy(update=change),))]
        assert decided_again(given) != given
    colorless = verdict.model_copy(update={"found": {"cake": ((*cake[:5], None),)}})
    with pytest.raises(UserError, match="lack the colour of a cake"):
        decided_again([PromptVerdicts(prompt=CAKES, images=(colorless,))])


def test_other_options_are_other_words() -> None:
    """Also as a part of more words: by them a record says how its images were judged."""
    others: list[dict[str, float]] = [
        {"threshold": 0.35},
        {"counting_threshold": 0.95},
        {"max_objects": 160},
        {"max_overlap": 0.5},
        {"position_threshold": 0.15},
    ]
    assert set().union(*others) == set(Options.model_fields)
    for other in others:
        assert OFFICIAL.words() not in f"detector x, {Options.model_validate(other).words()}, further words"


@pytest.fixture
def verdicts() -> list[PromptVerdicts]:
    image = _decided(CAKES, {"cake": _objects(_at(7, 7))}, "red")
    wrong = ImageVerdict(correct=False, reason="expected cake>=1, found 0")
    return [PromptVerdicts(prompt=CAKES, images=(image, wrong))]


def test_equal_verdicts_give_equal_files(verdicts: list[PromptVerdicts], tmp_path: Path) -> None:
    first, second = (write_verdicts(tmp_path / name, verdicts) for name in ("first.gz", "second.gz"))
    assert first == second
    assert (tmp_path / "first.gz").read_bytes() == (tmp_path / "second.gz").read_bytes()
    assert read_verdicts(tmp_path / "first.gz", first) == verdicts
    with pytest.raises(UserError, match="is not the file that its record names"):
        read_verdicts(tmp_path / "first.gz", first.model_copy(update={"sha256": "0" * 64}))


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ('"correct":true', '"correct":"yes"', "not written as this project writes them"),
        ('"correct":true', '"correct": true', "not written as this project writes them"),
        ('"correct":true', '"correct":7', "line 1 has no verdicts"),
        ("2.0", "1e300", "line 1 has objects outside of any image"),
        ("2.0", "NaN", "line 1 has no verdicts"),
        ('"cake"', '"k\u00e4se"', "these are no packed verdicts"),
    ],
)
def test_a_text_that_is_no_verdicts_is_refused(
    verdicts: list[PromptVerdicts], before: str, after: str, problem: str
) -> None:
    text = gzip.decompress(encode(verdicts)).decode()
    assert before in text
    with pytest.raises(UserError, match=problem):
        decode(gzip.compress(text.replace(before, after).encode()))


def test_a_damaged_or_endless_file_is_refused(verdicts: list[PromptVerdicts], monkeypatch: pytest.MonkeyPatch) -> None:
    for damaged in (b"not gzip", encode(verdicts)[:-9], encode(verdicts)[:40] + b"\0" * 40):
        with pytest.raises(UserError, match="these are no packed verdicts"):
            decode(damaged)
    monkeypatch.setattr("harness.metrics.geneval.verdict_files.MOST_CHARACTERS", 50)
    with pytest.raises(UserError, match="longer than 50 characters"):
        decode(encode(verdicts))
