"""What others published, as data: the figures that they print, each with its source (no torch)."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from harness.claims import Claim, Claims
from harness.contributing.strict_json import MOST_BYTES
from harness.frozen import Frozen, NonNegativeFloat, PositiveFloat, PositiveInt
from harness.plain_files import NotPlainError, read_plain, reason_of

PUBLISHED: Final = "published"
CLAIMS: Final = "claims"

# What may be quoted: metric -> its units, each with the largest value that makes sense in it.
METRICS: Final[Mapping[str, Mapping[str, float]]] = {
    "fid": {"distance": 600},
    "rfid": {"distance": 600},
    "fid_floor": {"distance": 600},
    "fid_deviation": {"distance": 600},
    "fid_range": {"": 100},
    "fid_variation": {"%": 100},
    "inception_score": {"score": 1000},
    "precision": {"share": 1},
    "recall": {"share": 1},
    "geneval": {"%": 100, "share": 1},
    "geneval_single_object": {"share": 1},
    "geneval_two_object": {"share": 1},
    "geneval_counting": {"share": 1},
    "geneval_colors": {"share": 1},
    "geneval_position": {"share": 1},
    "geneval_color_attr": {"share": 1},
    "dpg": {"%": 100},
    "gflops": {"GFLOP": 1e6, "GMAC": 1e6},
    "parameters": {"million": 1e6},
    "masked_tokens": {"%": 100},
    "outlier_ratio": {"not stated": 1},
    "outlier_max_over_median": {"ratio": 1e4},
    "outlier_tokens": {"tokens": 1e6},
    "outliers_left": {"share": 1},
    "patch_norm": {"norm": 1e9},
    "register_norm": {"norm": 1e9},
    "register_max_over_median": {"ratio": 1e4},
    "sink_change": {"%": 100},
    "broken_framings": {"of 3": 3},
    "linear_probe_accuracy": {"%": 100, "share": 1},
    "zero_shot_accuracy": {"%": 100},
    "segmentation_miou": {"%": 100},
    "segmentation_pixel_accuracy": {"%": 100},
    "segmentation_map": {"%": 100},
    "depth_rmse": {"metres": 100},
    "corloc": {"%": 100},
    "correlation_fid_t2i": {"correlation": 1},
    "register_neurons": {"neurons": 1e5},
}
MAY_BE_NEGATIVE: Final = {"correlation_fid_t2i", "sink_change"}

Read = Literal[
    "authors' page",
    "authors' README",
    "authors' code",
    "authors' blog",
    "printed in an authors' figure",
    "read off an authors' figure",
    "measured from pixels of a plot",
    "issue thread",
    "secondary source",
]
PRINTED: Final = {"authors' page", "authors' README", "authors' code", "authors' blog", "printed in an authors' figure"}


class Figure(Frozen):
    """One published number, as it is printed.  Always `quoted`: never ranked with what was measured here.

    `model` and `arm` are the source's words; `family`, `backbone`, `encoder`, `registers` (a preset) and `task` are
    ours, empty where ours do not fit.  `spread` is what it prints after +-.  `epochs`, `steps` and `num_images` are
    None where they are not stated, `reference`, `reference_split` and `evaluator` empty, `guidance` "not stated".
    `places` are the tables and figures in which it stands; `read` is how it was read there.  It is `confirmed` where it
    was read as a printed number in a source of its authors and nothing else of theirs disagrees; `reference_confirmed`
    says the same of what FID was measured against.  `cited` figures are another paper's, repeated by this source.
    """

    id: str = Field(pattern=r"^[a-z0-9]+(?:[./+-][a-z0-9]+)*$")
    status: Literal["quoted"] = "quoted"
    model: str = Field(min_length=1)
    arm: str = ""
    family: str = ""
    backbone: str = ""
    encoder: str = ""
    registers: str = ""
    task: str = ""
    data: str = ""
    metric: str
    value: float
    unit: str = ""
    spread: NonNegativeFloat | None = None
    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    guidance: Literal["none", "guided", "classifier-free", "classifier-free and register", "not stated"] = "not stated"
    guidance_scale: NonNegativeFloat | None = None
    num_images: PositiveInt | None = None
    reference: str = ""
    reference_split: str = ""
    reference_confirmed: bool = False
    evaluator: str = ""
    places: tuple[str, ...] = Field(min_length=1)
    read: Read
    cited: bool = False
    confirmed: bool
    note: str = ""

    @model_validator(mode="after")
    def _check(self) -> "Figure":
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is none of {', '.join(METRICS)}")
        if self.unit not in METRICS[self.metric]:
            raise ValueError(f"{self.metric} has no unit {self.unit!r}: {' or '.join(METRICS[self.metric])}")
        most = METRICS[self.metric][self.unit]
        least = -most if self.metric in MAY_BE_NEGATIVE else 0.0
        if not least <= self.value <= most:
            raise ValueError(f"{self.metric} lies between {least:g} and {most:g}, not at {self.value:g}")
        if self.confirmed and (self.read not in PRINTED or self.cited):
            raise ValueError(f"what was {self.read!r}, or is cited, cannot be confirmed")
        if self.reference_confirmed and not self.reference:
            raise ValueError("a reference that is not named cannot be confirmed")
        return self

    @property
    def identity(self) -> tuple[Any, ...]:
        """What was measured and how it was read: two figures that agree in it are one, entered twice."""
        told = {"id", "value", "spread", "places", "confirmed", "note", "reference_confirmed"}
        return tuple(value for name, value in self if name not in told)


class Source(Frozen):
    """One file of `results/published`: a paper, or whatever else prints figures, and all that was read of them.

    `name` is that of the file.  `arxiv` and `url` are empty where there is none.
    """

    schema_version: Literal[1] = 1
    kind: Literal["published"] = "published"
    name: str = Field(pattern=r"^[a-z0-9]+(?:[.-][a-z0-9]+)*$")
    title: str = Field(min_length=1)
    arxiv: str = Field(default="", pattern=r"^(|\d{4}\.\d{5})$")
    url: str = ""
    note: str = ""
    figures: tuple[Figure, ...]

    @model_validator(mode="after")
    def _check(self) -> "Source":
        if not (self.arxiv or self.url):
            raise ValueError("a source is found by an arXiv number or a url")
        for what, counted in (
            ("id", Counter(figure.id for figure in self.figures)),
            ("figure", Counter(figure.identity for figure in self.figures)),
        ):
            twice = [key for key, count in counted.items() if count > 1]
            if twice:
                raise ValueError(f"the same {what} stands twice: {twice[0]}")
        return self


@dataclass(frozen=True)
class Published:
    """Everything below `results/published`; `problems` are files that are not what they should be, and why."""

    sources: tuple[Source, ...]
    claims: tuple[Claim, ...]
    problems: tuple[tuple[Path, str], ...]

    @property
    def figures(self) -> dict[str, Figure]:
        """Every figure by its id."""
        return {figure.id: figure for source in self.sources for figure in source.figures}


def read_published(results: Path, newcomers: Collection[Path] = ()) -> Published:
    """Read and check the published record; malformed files are named and left out, never touched.

    Of two files with the same figure the first by name keeps it, but for `newcomers`, which yield to all others.
    A claim that rests on a figure or a source that there is not makes the file of claims malformed.
    """
    sources: dict[str, Source] = {}
    problems: list[tuple[Path, str]] = []
    taken: dict[str, str] = {}
    folder = results / PUBLISHED
    for path in sorted(folder.glob("*.json"), key=lambda path: (path in newcomers, path)):
        if path.stem == CLAIMS:
            continue
        source = _read(path, Source)
        reason = source if isinstance(source, str) else _misplaced(path, source, taken)
        if isinstance(source, str) or reason:
            problems.append((path, reason))
            continue
        sources[source.name] = source
        taken |= {figure.id: source.name for figure in source.figures}
    claims: Sequence[Claim] = ()
    path = folder / f"{CLAIMS}.json"
    if os.path.lexists(path):
        found = _read(path, Claims)
        reason = found if isinstance(found, str) else next(_unfounded(found, sources, taken), "")
        if isinstance(found, str) or reason:
            problems.append((path, reason))
        else:
            claims = found.claims
    return Published(tuple(sources.values()), tuple(claims), tuple(problems))


_Model = TypeVar("_Model", bound=BaseModel)

# The tables of the database: column -> SQL type, in the order of the values in a row.
PUBLISHED_COLUMNS: Final[Mapping[str, str]] = {
    "source": "VARCHAR",
    "title": "VARCHAR",
    "arxiv": "VARCHAR",
    "url": "VARCHAR",
    "path": "VARCHAR",
    "id": "VARCHAR",
    "status": "VARCHAR",
    "model": "VARCHAR",
    "arm": "VARCHAR",
    "family": "VARCHAR",
    "backbone": "VARCHAR",
    "encoder": "VARCHAR",
    "registers": "VARCHAR",
    "task": "VARCHAR",
    "data": "VARCHAR",
    "metric": "VARCHAR",
    "value": "DOUBLE",
    "unit": "VARCHAR",
    "spread": "DOUBLE",
    "epochs": "DOUBLE",
    "steps": "INTEGER",
    "guidance": "VARCHAR",
    "guidance_scale": "DOUBLE",
    "num_images": "INTEGER",
    "reference": "VARCHAR",
    "reference_split": "VARCHAR",
    "reference_confirmed": "BOOLEAN",
    "evaluator": "VARCHAR",
    "places": "VARCHAR",
    "read": "VARCHAR",
    "cited": "BOOLEAN",
    "confirmed": "BOOLEAN",
    "note": "VARCHAR",
}
CLAIM_COLUMNS: Final[Mapping[str, str]] = {
    "id": "VARCHAR",
    "text": "VARCHAR",
    "source": "VARCHAR",
    "title": "VARCHAR",
    "arxiv": "VARCHAR",
    "url": "VARCHAR",
    "place": "VARCHAR",
    "test": "VARCHAR",
    "setting": "VARCHAR",
    "expects": "VARCHAR",
    "figures": "VARCHAR",
    "disputed_by": "VARCHAR",
    "note": "VARCHAR",
}


def published_rows(published: Published) -> list[dict[str, Any]]:
    """One row of scalars for each figure."""
    return [
        {
            "source": source.name,
            "title": source.title,
            "arxiv": source.arxiv,
            "url": source.url,
            "path": f"{PUBLISHED}/{source.name}.json",
            **figure.model_dump(),
            "places": "; ".join(figure.places),
        }
        for source in published.sources
        for figure in source.figures
    ]


def claim_rows(published: Published) -> list[dict[str, Any]]:
    """One row of scalars for each claim, with what its source is called; its test and its setting are JSON."""
    sources = {source.name: source for source in published.sources}
    return [
        {
            **sources[claim.source].model_dump(include={"title", "arxiv", "url"}),
            **claim.model_dump(include={"id", "text", "source", "place", "note"}),
            "test": claim.test.model_dump_json(),
            "setting": claim.setting.model_dump_json(),
            "expects": claim.test.words,
            "figures": "; ".join(claim.figures),
            "disputed_by": "; ".join(claim.disputed_by),
        }
        for claim in published.claims
    ]


def _read(path: Path, model: type[_Model]) -> _Model | str:
    """A file as a model, or why it is none."""
    try:
        return model.model_validate_json(read_plain(path, MOST_BYTES))
    except ValidationError as error:
        return reason_of(error)
    except NotPlainError as error:
        return error.reason


def _misplaced(path: Path, source: Source, taken: Mapping[str, str]) -> str:
    """Why a source cannot stand beside those read before it, or ""."""
    if path.stem != source.name:
        return f"the file's name is not its source's, {source.name}"
    for figure in source.figures:
        if figure.id in taken:
            return f"the figure {figure.id} is in {taken[figure.id]}.json already"
    return ""


def _unfounded(claims: Claims, sources: Mapping[str, Source], figures: Mapping[str, str]) -> Iterator[str]:
    """What claims rest on and nobody has read."""
    for claim in claims.claims:
        if claim.source not in sources:
            yield f"{claim.id}: there is no source {claim.source}"
        yield from (f"{claim.id}: there is no figure {figure}" for figure in claim.figures if figure not in figures)
