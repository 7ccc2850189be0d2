"""Which colour and shape a name has in every chart: the same on every page, told apart by colour-blind readers too.

Each colour stands out by 3 : 1 or more from the light page and from the dark one (WCAG 2, non-text contrast); the hues
are Okabe and Ito's, darkened where they were lighter than that.  Points have a shape, too, and
lines have dashes; heat maps go from dark to light.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import altair as alt

GREY: Final = "#8a8a8a"
BLUE, VERMILION, GREEN, PURPLE, OCHRE, ROSE = "#1B81C4", "#D55E00", "#009E73", "#7F6FBF", "#996600", "#CC79A7"
COLOURS: Final = (BLUE, VERMILION, GREEN, PURPLE, OCHRE, ROSE)
SHAPES: Final = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")


@dataclass(frozen=True)
class Mark:
    """How one name is drawn: a colour (#rrggbb) and a shape of Vega-Lite."""

    colour: str
    shape: str


# The colour says what kind of method it is: tokens in the denoiser, in the encoder, in both, no tokens but a change of
# attention, or a control.
_REGISTERS: Final = {
    "none": Mark(GREY, "circle"),
    "denoiser": Mark(BLUE, "square"),
    "plain": Mark(BLUE, "triangle-up"),
    "class-tokens": Mark(BLUE, "diamond"),
    "register-guidance": Mark(BLUE, "triangle-down"),
    "zero-registers": Mark(BLUE, "cross"),
    "encoder": Mark(GREEN, "triangle-up"),
    "encoder-recursive": Mark(GREEN, "triangle-down"),
    "dsr": Mark(VERMILION, "diamond"),
    "kv-bias": Mark(PURPLE, "square"),
    "sink-logit": Mark(PURPLE, "triangle-up"),
    "softmax-one": Mark(PURPLE, "triangle-down"),
    "gate-headwise": Mark(PURPLE, "cross"),
    "gate-elementwise": Mark(PURPLE, "diamond"),
    "wide-mlp": Mark(OCHRE, "square"),
    "longer": Mark(OCHRE, "triangle-right"),
    "clamp": Mark(OCHRE, "triangle-down"),
    "loss-mask": Mark(OCHRE, "triangle-up"),
    "loss-mask-paper": Mark(OCHRE, "cross"),
}
_FAMILIES: Final = {
    "sit": Mark(BLUE, "circle"),
    "dit": Mark(VERMILION, "square"),
    "pdit": Mark(OCHRE, "triangle-down"),
    "jit": Mark(GREEN, "triangle-up"),
    "rae-dit": Mark(PURPLE, "diamond"),
    "rae-dit-dh": Mark(ROSE, "cross"),
}


def of_registers(preset: str) -> Mark:
    """That of a register preset."""
    return _REGISTERS.get(preset) or _by_name(preset)


def of_backbone(exact_name: str) -> Mark:
    """That of a backbone's family: all its sizes share it."""
    found = [family for family in _FAMILIES if exact_name == family or exact_name.startswith(f"{family}-")]
    return _FAMILIES[max(found, key=len)] if found else _by_name(exact_name)


def colours_of_registers(presets: Iterable[str]) -> "alt.Scale":
    """The colours of an Altair channel over these presets."""
    return _scale({preset: of_registers(preset).colour for preset in presets})


def shapes_of_registers(presets: Iterable[str]) -> "alt.Scale":
    """The shapes of an Altair channel over these presets."""
    return _scale({preset: of_registers(preset).shape for preset in presets})


def _by_name(name: str) -> Mark:
    """What nobody knows here has what follows from its name alone, wherever it appears."""
    digest = hashlib.sha256(name.encode(errors="replace")).digest()
    return Mark(COLOURS[digest[0] % len(COLOURS)], SHAPES[digest[1] % len(SHAPES)])


def _scale(marks: dict[str, str]) -> "alt.Scale":
    import altair as alt

    names = sorted(marks, key=lambda name: (name != "none", name))
    return alt.Scale(domain=names, range=[marks[name] for name in names])
