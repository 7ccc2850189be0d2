"""What the figures of both probes share: their look, their axes, and matplotlib only where one is drawn."""

from typing import TYPE_CHECKING, Any

from harness.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, DOTS_PER_INCH = 12.0, 150
INK, FAINT, GRID = "#262626", "#767676", "#e4e4e4"
NORM_COLOURS = "BuPu"

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}


def open_matplotlib() -> Any:
    """Matplotlib with its figures.  Raises UserError where it is not installed."""
    try:
        import matplotlib as mpl
        import matplotlib.figure
    except ImportError as error:
        raise UserError(
            f"the figure is drawn with matplotlib, which cannot be imported: {error}", "pip install matplotlib"
        ) from error
    return mpl


def in_multiples(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1x, 3x, 10x, ..."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axis.set_minor_formatter(NullFormatter())


def bare(axis: "Axes") -> None:
    """No ticks, no grid, a thin frame."""
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set(visible=True, color=GRID)
