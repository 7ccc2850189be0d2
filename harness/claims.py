"""What a published claim says, in terms of runs that can be made here: frozen data, without torch."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from harness.frozen import Frozen, NonNegativeInt, PositiveFloat, PositiveInt

# Distances between two sets of images that a claim about FID may be tested by.
FRECHET: Final = ("fid", "fd_dinov2", "fd_digits")
FRECHET_FAMILY: Final = "frechet"

# GenEval's official prompts, and its rules on those of the drawn shapes.
GENEVAL: Final = ("geneval", "geneval_shapes")

# What a claim names -> the measurements that can test it, and what that is called.
FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {FRECHET_FAMILY: FRECHET, "geneval": GENEVAL}
_CALLED: Final[Mapping[str, str]] = {FRECHET_FAMILY: "FID or its like", "geneval": "GenEval or its like"}


class Bounded(Frozen):
    """Where a claim says that a number lies: above `least`, below `most`, or between."""

    least: float | None = None
    most: float | None = None

    @model_validator(mode="after")
    def _check_bounds(self) -> "Bounded":
        if self.least is None and self.most is None:
            raise ValueError("a claim says where a number lies: least, most, or both")
        if self.least is not None and self.most is not None and self.least >= self.most:
            raise ValueError("least is below most")
        return self


class Difference(Bounded):
    """A claim about two arms: how the `treatments` (presets) differ from the `baseline` preset in a metric.

    `least` and `most` bound the difference as a share of the baseline's mean: most = 0 is "lower".  `metric` is a
    measurement's name, "frechet" for any of `FRECHET`, or "geneval" for any of `GENEVAL`.  The arms must be equal in
    `equal_stages` too.
    """

    kind: Literal["difference"]
    families: tuple[str, ...] = Field(min_length=1)
    treatments: tuple[str, ...] = Field(min_length=1)
    baseline: str = "none"
    equal_stages: tuple[Literal["encoder", "denoiser"], ...] = ()
    metric: str = FRECHET_FAMILY

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the measurements that can test it."""
        return FAMILIES.get(self.metric, (self.metric,))

    @property
    def words(self) -> str:
        """What is expected: "fid lower", "gflops higher by 9 % to 11.5 %"."""
        name = _CALLED.get(self.metric, self.metric)
        if self.least is not None and self.most is not None:
            return f"{name} higher by {self.least:.3g} to {self.most:.3g} of it"
        if self.most is not None:
            return f"{name} lower" + (f" by more than {-self.most:.3g} of it" if self.most else "")
        assert self.least is not None
        if self.least < 0:
            return f"{name} not lower by more than {-self.least:.3g} of it"
        return f"{name} higher" + (f" by more than {self.least:.3g} of it" if self.least else "")


class Level(Bounded):
    """A claim about one arm: where a metric lies in runs with the preset `registers`."""

    kind: Literal["level"]
    families: tuple[str, ...] = Field(min_length=1)
    registers: str = "none"
    metric: str

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the measurements that can test it."""
        return (self.metric,)

    @property
    def words(self) -> str:
        """What is expected: "outlier_max_over_median above 5"."""
        above = [] if self.least is None else [f"above {self.least:g}"]
        below = [] if self.most is None else [f"below {self.most:g}"]
        return f"{self.metric} {' and '.join(above + below)}"


class OutOfReach(Frozen):
    """A claim that no measurement of this bench can test, and why."""

    kind: Literal["out of reach"]
    reason: str = Field(min_length=1)

    @property
    def words(self) -> str:
        """Why nothing is expected."""
        return f"not testable here: {self.reason}"


class Setting(Frozen):
    """The published scale: what a run must be for its result to bear on the claim as it was made.

    `backbones` are exact names such as `rae-dit-xl`; none where no size of ours is the published one.  `treatments` are
    the presets that are what was published: None for all that test the claim, none where ours only resemble it.
    `start_blocks` say before which block registers enter, by the depth of the network, where that is known.  What is
    empty or None else asks for nothing.  A run counts that was trained for at least `epochs`.
    """

    task: str = "imagenet256"
    backbones: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ()
    treatments: tuple[str, ...] | None = None
    count: PositiveInt | None = None
    start_blocks: dict[PositiveInt, NonNegativeInt] = Field(default_factory=dict)
    metric: str = "fid"
    guided: bool = False
    epochs: PositiveFloat | None = 80
    num_images: PositiveInt = 50_000


class Claim(Frozen):
    """One published claim, in our words, with the figures that it rests on and what would test it.

    `figures` are ids of published figures, `disputed_by` those of claims that say otherwise.
    """

    id: str = Field(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$")
    text: str = Field(min_length=1)
    source: str
    place: str = ""
    figures: tuple[str, ...] = ()
    disputed_by: tuple[str, ...] = ()
    test: Annotated[Difference | Level | OutOfReach, Field(discriminator="kind")]
    setting: Setting = Setting()
    note: str = ""


class Claims(Frozen):
    """The file `results/published/claims.json`."""

    schema_version: Literal[1] = 1
    kind: Literal["claims"] = "claims"
    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _check(self) -> "Claims":
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) < len(ids):
            raise ValueError("a claim stands twice")
        unknown = sorted({other for claim in self.claims for other in claim.disputed_by} - set(ids))
        if unknown:
            raise ValueError(f"a claim is disputed by one that there is not: {unknown[0]}")
        return self
