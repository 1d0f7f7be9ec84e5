"""The appearance of plots: the style, the look of each variant, and the conversion of figures to parts of the page."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import LogFormatter
from matplotlib.transforms import Affine2D

# Matplotlib draws with placeholder colours; `inline` replaces them by the page's, which differ in light and dark mode.
INK, MUTED, RULE, PAPER = "#010101", "#010102", "#010103", "#010104"
COLOURS = 8  # number of colours for variants, --v0 to --v7 of the page
PAGE = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)"}
PAGE |= {f"#0200{i:02x}": f"var(--v{i})" for i in range(COLOURS)}

# The markers, with sizes in points at which they look equally large.
MARKERS = {"o": 6.0, "s": 5.5, "^": 6.5, "D": 5.0, "v": 6.5, "P": 7.0, "X": 7.0, "*": 9.0}
LINES = ("-", "--", ":", "-.")
# No text is parsed as TeX or mathtext: a layer may be called `$\\bad$`. Every figure is drawn with these settings.
PLAIN_TEXT: Any = {"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False}
STYLE = {
    **PLAIN_TEXT,
    "svg.hashsalt": "normbench",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so text has the same size on every machine
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.titlesize": 9.5,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 9.0,
    "figure.dpi": 72,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
WIDTH, HEIGHT = 5.2, 3.7  # inches of a figure that fills half of the page


class Look:
    """The colour, marker and line style of a variant, the same in all plots. index: number of the variant, from 0."""

    def __init__(self, index: int):
        turn = index // COLOURS
        self.colour = f"#0200{index % COLOURS:02x}"
        self.marker = list(MARKERS)[(index + turn) % len(MARKERS)]
        self.size = MARKERS[self.marker]
        self.line = LINES[turn % len(LINES)]

    def glyph(self) -> Markup:
        """Returns the marker as an inline picture for text."""
        shape = MarkerStyle(self.marker)
        placed = shape.get_transform() + Affine2D().scale(1.7 * self.size, -1.7 * self.size)
        points = np.asarray(shape.get_path().transformed(placed).to_polygons()[0])
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        return Markup(
            '<svg class="glyph" viewBox="-8 -8 16 16" aria-hidden="true"><polygon points="{}" style="fill: {}"/></svg>'
        ).format(text, PAGE[self.colour])


def plain_labels(axis: Axis) -> None:
    """Gives a logarithmic axis labels that are plain text."""
    axis.set_major_formatter(PlainLabels())
    axis.set_minor_formatter(PlainLabels())


class PlainLabels(LogFormatter):
    """The labels of a logarithmic axis, at the places that matplotlib chooses, as `0.5`, `200` or `10\u2076`.

    matplotlib's own labels are mathtext, which would be shown as it is written.
    """

    def __call__(self, x: float, pos: int | None = None) -> str:
        if not super().__call__(x, pos):
            return ""
        factor, power = f"{x:e}".split("e")
        if -3 <= int(power) <= 5:
            return f"{x:,.6g}"
        head = "" if float(factor) == 1 else f"{float(factor):g}\N{MULTIPLICATION SIGN}"
        return f"{head}10{str(int(power)).translate(RAISED)}"


RAISED = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure of a size in inches, with its only axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def inline(figure: Figure, prefix: str, title: str) -> Markup:
    """Returns a figure as an svg element in the colours and font of the page.

    prefix: makes the ids of its elements unique. title: its accessible name.
    """
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    view = re.search(r'viewBox="([^"]+)"', text)
    if view is None:
        raise ValueError("matplotlib has written an SVG file without a viewBox")
    body = text[text.index(">", view.end()) + 1 :]
    body = re.sub(r"<!--.*?-->|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"font-family:[^;\"]*(; )?", "", body)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub("|".join(PAGE), lambda found: PAGE[found[0]], body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    points = float(view[1].split()[2])
    return Markup('<svg viewBox="{}" style="min-width: {}px" role="img" aria-label="{}">{}').format(
        view[1], round(points) if points > 72 * WIDTH else 0, title, Markup(body)
    )
