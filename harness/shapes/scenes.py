"""What a caption of shapes-t2i says, as data, and in words (no torch)."""

from dataclasses import dataclass
from typing import Final

from harness.metrics.geneval.prompt import TAGS, Clause, Prompt, Relation, Tag

NUMBERS: Final = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Thing:
    """An object of a caption: its shape, and its colour and size where the caption names them."""

    shape: str
    color: str | None = None
    size: str | None = None

    @property
    def words(self) -> str:
        """With its article, as GenEval writes it: "an orange circle"."""
        named = " ".join(word for word in (self.size, self.color, self.shape) if word)
        return f"{'an' if named[0] in 'aeiou' else 'a'} {named}"


@dataclass(frozen=True)
class Scene:
    """One caption: one or two different things (the first in a `relation` to the second), or `count` of one."""

    tag: Tag
    things: tuple[Thing, ...]
    relation: Relation | None = None
    count: int = 1

    @property
    def caption(self) -> str:
        """In GenEval's words: "a photo of a red circle and a blue square"."""
        if self.count > 1:
            return f"a photo of {NUMBERS[self.count]} {plural(self.things[0].shape)}"
        joined = f" {self.relation or 'and'} ".join(thing.words for thing in self.things)
        return f"a photo of {joined}"

    @property
    def prompt(self) -> Prompt:
        """What an image of it must show by GenEval's rules, which know no sizes.

        As there, the clause of what has a position comes after that of what it is relative to.
        """
        clauses = [Clause(object_class=t.shape, count=self.count, color=t.color) for t in self.things]
        if self.relation:
            first, second = clauses
            clauses = [second, first.model_copy(update={"position": (self.relation, 0)})]
        more = (Clause(object_class=self.things[0].shape, count=self.count + 1),) if self.tag == "counting" else ()
        return Prompt(tag=self.tag, include=tuple(clauses), exclude=more, prompt=self.caption)


def scene_of(prompt: Prompt) -> Scene:
    """The scene of which a prompt was made (without sizes)."""
    relation = prompt.include[-1].position
    clauses = prompt.include[::-1] if relation else prompt.include
    things = tuple(Thing(clause.object_class, clause.color) for clause in clauses)
    scene = Scene(_tag(prompt.tag), things, relation[0] if relation else None, clauses[0].count)
    assert scene.prompt == prompt, f"no scene of ours: {prompt}"
    return scene


def plural(shape: str) -> str:
    """GenEval's plural."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _tag(tag: str) -> Tag:
    return next(known for known in TAGS if known == tag)
