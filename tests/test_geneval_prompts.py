"""GenEval's prompts as files have them: the official ones, and anybody's own."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from harness.errors import UserError
from harness.metrics.geneval.official_prompts import (
    LINES_SHA256,
    lines,
    official_prompts,
    parse_prompt,
    prompts_sha256,
)


@pytest.fixture
def drawn_anew() -> Iterator[None]:
    official_prompts.cache_clear()
    yield
    official_prompts.cache_clear()


def test_official_prompts_are_read_back_from_their_lines() -> None:
    prompts = official_prompts()
    assert tuple(map(parse_prompt, lines(prompts).splitlines())) == prompts
    assert prompts_sha256(prompts) == LINES_SHA256


@pytest.mark.usefixtures("drawn_anew")
def test_another_stream_of_random_numbers_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: stream(seed + 1))
    with pytest.raises(UserError, match="draws other random numbers"):
        official_prompts()


def test_prompts_of_ones_own_may_have_any_tag_and_colours_with_places() -> None:
    red_below = {"class": "kite", "count": 2, "color": "red", "position": ["below", 0]}
    fields = {"tag": "mine", "include": [{"class": "cat", "count": 1}, red_below], "prompt": "kites"}
    assert lines([parse_prompt(json.dumps(fields))]) == f"{json.dumps(fields)}\n"


def test_a_prompt_may_include_nothing() -> None:
    prompt = parse_prompt('{"tag": "mine", "exclude": [{"class": "cat", "count": 1}], "prompt": "no cat"}')
    assert prompt.include == ()
    assert parse_prompt(lines([prompt])) == prompt


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{'tag'", "Expecting property name"),
        ("[" * 100_000, "recursion"),
        ('["tag"]', "valid dictionary"),
        ('{"tag": "t", "include": []}', "prompt: Field required"),
        ('{"tag": "t", "include": [{"class": "cat", "count": 0}], "prompt": "p"}', "include.0.count: "),
        ('{"tag": "t", "include": [{"class": "cat", "count": 1, "size": 3}], "prompt": "p"}', "include.0.size: Extra"),
        (
            '{"tag": "t", "include": [{"class": "cat", "count": 1, "position": ["near", 0]}], "prompt": "p"}',
            "include.0.position.0: ",
        ),
        (
            '{"tag": "t", "include": [{"class": "cat", "count": 1, "position": ["above", 0]}], "prompt": "p"}',
            "include.0.position: there is no clause 0 before it",
        ),
    ],
)
def test_a_line_that_is_no_prompt_is_refused_in_words(line: str, reason: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_prompt(line)
    assert reason in refused.value.problem
    assert len(refused.value.problem) < 300
