"""A prompt of GenEval, and what an image must show for it (no torch)."""

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from harness.frozen import Frozen, NonNegativeInt, PositiveInt

Tag = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
Relation = Literal["left of", "right of", "above", "below"]

# In the order of the official summary, and of the official list of colours.
TAGS: Final[tuple[Tag, ...]] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS: Final[tuple[Relation, ...]] = ("left of", "right of", "above", "below")
COLORS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")


class Clause(Frozen):
    """`count` objects of a class; with a `color`, or in a `position` relative to the objects of an earlier clause.

    `position` is (relation, number of that clause).  In files the class is called `class`.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    object_class: Annotated[str, Field(alias="class")]
    count: PositiveInt
    color: str | None = None
    position: tuple[Relation, NonNegativeInt] | None = None


class Prompt(Frozen):
    """One prompt: what an image must `include`, and of what it must hold fewer than `exclude` says.

    `tag` is the category, one of TAGS in official prompts; anybody's own prompts may have others.
    """

    tag: str
    include: tuple[Clause, ...] = ()
    exclude: tuple[Clause, ...] = ()
    prompt: str
