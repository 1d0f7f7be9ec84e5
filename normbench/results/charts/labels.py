"""Names beside the points of a scatter plot, at places where they cover no point and no other name."""

from __future__ import annotations

import math
from dataclasses import dataclass

# The places around a point at which its name is tried: distances in pixels, and angles in degrees.
DISTANCES, ANGLES = (9, 18, 30, 44, 60), (0, 180, 90, 270, 30, 150, 330, 210)
NEAR = DISTANCES[0]  # a name at this distance needs no line to its point
FONT_SIZE = 10.5
MARKER = 5.0  # half the side of a marker
NARROW, WIDE = "fijlrtI.,:;'!|()[]- ", "mwMW@%"


@dataclass(frozen=True)
class Place:
    """Where a name stands, in pixels from its point, to the right and down; its text is aligned to this place."""

    dx: float
    dy: float
    align: str

    @property
    def near(self) -> bool:
        """Whether no line to the point is needed."""
        return math.hypot(self.dx, self.dy) <= NEAR + 1


Box = tuple[float, float, float, float]  # left, top, right, bottom


def text_width(text: str, size: float) -> float:
    """Returns the width of a text in pixels, to about a tenth, in Liberation Sans and fonts of equal widths."""
    share = {0.3: NARROW, 0.87: WIDE}
    each = (next((s for s, chars in share.items() if char in chars), 0.69 if char.isupper() else 0.56) for char in text)
    return size * sum(each)


def places(
    points: list[tuple[float, float]], names: list[str], bars: list[Box], size: tuple[float, float]
) -> list[Place | None]:
    """Returns the place of each name, or None where there is no free one. Names that come first are placed first.

    points: in pixels from the left and from the top. bars: what else the points cover, such as error bars. size: width
    and height of the plot, which names must not leave.
    """
    taken = [_around(x, y, MARKER, MARKER) for x, y in points] + bars
    found: list[Place | None] = []
    for (x, y), name in zip(points, names, strict=True):
        place = _first_free(x, y, text_width(name, FONT_SIZE), taken, size)
        found.append(place)
        if place is not None:
            taken += _needed(x, y, place, text_width(name, FONT_SIZE))
    return found


def _first_free(x: float, y: float, width: float, taken: list[Box], size: tuple[float, float]) -> Place | None:
    for distance in DISTANCES:
        for angle in ANGLES:
            across, down = math.cos(math.radians(angle)), -math.sin(math.radians(angle))
            align = "center" if abs(across) < 0.1 else "left" if across > 0 else "right"
            place = Place(round(distance * across, 1), round(distance * down * 1.1, 1), align)
            needed = _needed(x, y, place, width)
            left, top, right, bottom = needed[0]
            inside = left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1]
            if inside and not any(_overlap(box, other) for box in needed for other in taken):
                return place
    return None


def _needed(x: float, y: float, place: Place, width: float) -> list[Box]:
    """Returns the boxes that a name needs: its own, and small ones along the line to its point."""
    left = x + place.dx - {"left": 0.0, "center": width / 2, "right": width}[place.align]
    half = FONT_SIZE * 0.55
    boxes = [(left - 1, y + place.dy - half, left + width + 1, y + place.dy + half)]
    length = math.hypot(place.dx, place.dy)
    steps = int((length - NEAR) // 4) if not place.near else 0
    for step in range(steps):
        share = (NEAR + 4 * step) / length
        boxes.append(_around(x + share * place.dx, y + share * place.dy, 1, 1))
    return boxes


def _around(x: float, y: float, across: float, down: float) -> Box:
    return x - across, y - down, x + across, y + down


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
