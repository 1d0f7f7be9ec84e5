"""The look of a variant: the colour, the marker and the line that it has in every chart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

# These twelve were chosen by a search over colours with a contrast of at least 3 to the white and to the dark page, for
# the largest distance between the two that are most alike to people with normal sight, protanopia or deuteranopia.
COLOURS = (
    "#0064e6",
    "#d23200",
    "#3c9678",
    "#be2896",
    "#3296d2",
    "#d27814",
    "#f05082",
    "#aa6eff",
    "#8c645a",
    "#b478aa",
    "#467800",
    "#7864be",
)
INK = "currentColor"  # that of the page's text, in a light and in a dark page; among variants only the baseline has it

# The markers as paths in a square from -1 to 1, as Vega takes them, of about the same area.
SHAPES = (
    "M.8,0A.8,.8,0,1,1,-.8,0A.8,.8,0,1,1,.8,0Z",  # circle
    "M-.7,-.7H.7V.7H-.7Z",  # square
    "M0,-1L.95,.75H-.95Z",  # triangle
    "M0,-1.05L.85,0L0,1.05L-.85,0Z",  # diamond
    "M0,1L.95,-.75H-.95Z",  # triangle that points down
    "M-.35,-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",  # plus
    "M-1,-.55L-.55,-1L0,-.45L.55,-1L1,-.55L.45,0L1,.55L.55,1L0,.45L-.55,1L-1,.55L-.45,0Z",  # cross
    "M0,-1.1L.3,-.38L1.08,-.33L.48,.17L.67,.92L0,.5L-.67,.92L-.48,.17L-1.08,-.33L-.3,-.38Z",  # star
    "M1,0L-.75,.95V-.95Z",  # triangle that points right
)
DASHES: tuple[tuple[int, ...], ...] = ((), (6, 3), (2, 2), (8, 3, 2, 3), (12, 4))
SOLID = 8  # so many variants have a whole line before the first dashes


@dataclass(frozen=True)
class Look:
    """How a variant is drawn. shape: an SVG path in a square from -1 to 1. dash: lengths of dashes and gaps."""

    colour: str
    shape: str
    dash: tuple[int, ...] = ()
    baseline: bool = False

    def glyph(self) -> Markup:
        """Returns the marker as an inline picture for text."""
        return Markup(
            '<svg class="glyph" viewBox="-1.2 -1.2 2.4 2.4" aria-hidden="true"><path d="{}" fill="{}"/></svg>'
        ).format(self.shape, self.colour)


def looks(variants: Iterable[str], baseline: str | None) -> dict[str, Look]:
    """Returns the look of each variant. No two of the first 40 share colour and marker, or colour and line.

    The baseline has a colour of its own.
    """
    found: dict[str, Look] = {}
    index = 0
    for variant in variants:
        if variant == baseline:
            found[variant] = Look(INK, SHAPES[0], baseline=True)
            continue
        turn, place = divmod(index, len(COLOURS))
        shape = SHAPES[(1 + place + turn) % len(SHAPES)]
        found[variant] = Look(COLOURS[place], shape, DASHES[index // SOLID % len(DASHES)])
        index += 1
    return found
