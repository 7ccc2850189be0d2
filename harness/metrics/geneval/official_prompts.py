"""The 553 official prompts, drawn again by our own generator, and the lines of the official file (no torch)."""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from pydantic import ValidationError

from harness.errors import UserError
from harness.metrics.geneval.objects import OBJECTS
from harness.metrics.geneval.prompt import COLORS, RELATIONS, Clause, Prompt, Tag
from harness.plain_files import reason_of

SEED: Final = 43
DRAWS: Final = 100

# Of the official evaluation_metadata.jsonl.
LINES_SHA256: Final = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"

_NUMBERS: Final = {2: "two", 3: "three", 4: "four"}
_SHOWN: Final = 80
_EXAMPLE: Final = '{"tag": "colors", "include": [{"class": "cake", "count": 1, "color": "red"}], "prompt": "red cake"}'
# Nobody is asked for a person of one colour.
_PERSON: Final = OBJECTS.index("person")


@functools.cache
def official_prompts() -> tuple[Prompt, ...]:
    """All of them, in the official order.

    Raises UserError where the NumPy that is installed draws other random numbers than the official prompts came from.
    """
    prompts = tuple(dict.fromkeys(_drawn()))
    if prompts_sha256(prompts) != LINES_SHA256:
        raise UserError(
            f"NumPy {np.__version__} draws other random numbers than older ones, and so not GenEval's official prompts",
            "install a NumPy that does, such as the one that this was tested with: pip install numpy==2.4.6",
        )
    return prompts


def lines(prompts: Iterable[Prompt]) -> str:
    """Prompts as the official file has them: one line of JSON each, with the fields in the official order."""
    return "".join(f"{json.dumps(prompt.model_dump(exclude_defaults=True, by_alias=True))}\n" for prompt in prompts)


def prompts_sha256(prompts: Iterable[Prompt]) -> str:
    """The SHA-256 of `lines`: two sets of prompts are the same where this is."""
    return hashlib.sha256(lines(prompts).encode()).hexdigest()


def parse_prompt(line: str) -> Prompt:
    """One line of such a file, anybody's.  Raises UserError, which does not know the file's name, where it is none."""
    try:
        fields = json.loads(line)
        # The official tool takes prompts that include nothing, and leave that out.
        prompt = Prompt.model_validate({"include": (), **fields} if isinstance(fields, dict) else fields)
    except ValidationError as error:
        raise _no_prompt(line, reason_of(error)) from error
    except (ValueError, RecursionError) as error:
        raise _no_prompt(line, str(error)) from error
    for number, clause in enumerate(prompt.include):
        if clause.position is not None and clause.position[1] >= number:
            raise _no_prompt(line, f"include.{number}.position: there is no clause {clause.position[1]} before it")
    return prompt


def _no_prompt(line: str, reason: str) -> UserError:
    shown = ascii(line.strip())[1:-1][:_SHOWN]
    return UserError(
        f"this is not a prompt of GenEval: {reason}: {shown}",
        f"write it as the official evaluation_metadata.jsonl does: {_EXAMPLE}",
    )


def _drawn() -> Iterator[Prompt]:
    """As the official script draws them, duplicates included: each draw depends on those before."""
    random = np.random.default_rng(SEED)
    for index in random.choice(len(OBJECTS), size=len(OBJECTS), replace=False):
        yield _prompt("single_object", f"a photo of {_a(OBJECTS[index])}", Clause(object_class=OBJECTS[index], count=1))
    for draw in (_two_objects, _counting, _colors, _position, _color_attributes):
        for _ in range(DRAWS):
            yield draw(random)


def _two_objects(random: np.random.Generator) -> Prompt:
    first, second = _two_classes(random)
    clauses = (Clause(object_class=name, count=1) for name in (first, second))
    return _prompt("two_object", f"a photo of {_a(first)} and {_a(second)}", *clauses)


def _counting(random: np.random.Generator) -> Prompt:
    name = OBJECTS[random.choice(len(OBJECTS))]
    number = int(random.integers(min(_NUMBERS), max(_NUMBERS), endpoint=True))
    text = f"a photo of {_NUMBERS[number]} {_plural(name)}"
    asked = _prompt("counting", text, Clause(object_class=name, count=number))
    return asked.model_copy(update={"exclude": (Clause(object_class=name, count=number + 1),)})


def _colors(random: np.random.Generator) -> Prompt:
    name = _thing(random.choice(len(OBJECTS) - 1))
    color = COLORS[random.choice(len(COLORS))]
    return _prompt("colors", f"a photo of {_a(color)} {name}", Clause(object_class=name, count=1, color=color))


def _position(random: np.random.Generator) -> Prompt:
    name, target = _two_classes(random)
    relation = RELATIONS[random.choice(len(RELATIONS))]
    placed = Clause(object_class=name, count=1, position=(relation, 0))
    text = f"a photo of {_a(name)} {relation} {_a(target)}"
    return _prompt("position", text, Clause(object_class=target, count=1), placed)


def _color_attributes(random: np.random.Generator) -> Prompt:
    names = [_thing(index) for index in random.choice(len(OBJECTS) - 1, size=2, replace=False)]
    colors = [COLORS[index] for index in random.choice(len(COLORS), size=2, replace=False)]
    pairs = list(zip(colors, names, strict=True))
    text = " and ".join(f"{_a(color)} {name}" for color, name in pairs)
    clauses = (Clause(object_class=name, count=1, color=color) for color, name in pairs)
    return _prompt("color_attr", f"a photo of {text}", *clauses)


def _prompt(tag: Tag, text: str, *include: Clause) -> Prompt:
    return Prompt(tag=tag, include=include, prompt=text)


def _two_classes(random: np.random.Generator) -> tuple[str, str]:
    first, second = random.choice(len(OBJECTS), size=2, replace=False)
    return OBJECTS[first], OBJECTS[second]


def _thing(index: int) -> str:
    """A class by its number among all that are no person, counted from behind that."""
    return OBJECTS[(_PERSON + 1 + index) % len(OBJECTS)]


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plural(name: str) -> str:
    """By the official rule, not that of English: skises, benchs, knifes."""
    return f"{name}es" if name.endswith("s") else f"{name}s"
