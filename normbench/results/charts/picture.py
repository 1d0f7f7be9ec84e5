"""A chart as a static picture: an svg element for a page, without what nobody sees."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import vl_convert
from markupsafe import Markup

VEGA_LITE = "6.4"  # the version of Vega-Lite that the specifications are written for
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # vl_convert measures text in the first; all are equally wide
# Parts of a picture have no roles of their own, and what is left out here is said once or does nothing.
LEFT_OUT = ("role", "class", "pointer-events", "font-family", "display")
GEOMETRY = ("d", "transform", "x2", "y2")
INHERITED = ("fill", "stroke", "stroke-width", "stroke-opacity", "font-size", "font-weight", "text-anchor")
DEFAULTS = {"opacity": "1", "transform": "translate(0,0)", "y2": "0", "x2": "0"}


def svg(spec: dict[str, Any], alt: str) -> Markup:
    """Returns a Vega-Lite specification as an svg element whose ids occur in no other chart of the page.

    alt: its alternative text.
    """
    drawn = ElementTree.fromstring(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE))
    for part in drawn.iter():
        part.tag = part.tag.rpartition("}")[2]
    # Vega counts its ids on from one chart to the next. Here they begin anew, with a prefix that the content decides.
    prefix = f"v{hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:8]}-"
    named = [part.attrib["id"] for part in drawn.iter() if "id" in part.attrib]
    ids = {name: f"{prefix}{place}" for place, name in enumerate(dict.fromkeys(named))}
    for part in drawn.iter():
        part.attrib = {name: tidy(name, value, ids) for name, value in part.attrib.items() if kept(name, value)}
    shrink(drawn)
    inner = "".join(ElementTree.tostring(part, encoding="unicode") for part in drawn)
    view = Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="{}" font-family="{}" role="img" aria-label="{}">')
    return view.format(drawn.attrib["viewBox"], FONT, alt) + Markup(inner) + Markup("</svg>")


def kept(name: str, value: str) -> bool:
    """Whether an attribute says something."""
    return not (name in LEFT_OUT or name.startswith("aria-") or DEFAULTS.get(name) == value)


def tidy(name: str, value: str, ids: dict[str, str]) -> str:
    """Returns the value of an attribute: lengths to a tenth of a pixel, colours in hexadecimal, and the new ids."""
    if name in GEOMETRY:
        return re.sub(r"-?\d+\.\d+(?:e-?\d+)?", lambda found: f"{round(float(found[0]), 1) or 0:g}", value)
    if name == "id":
        return ids[value]
    value = re.sub(r"url\(#([^)]+)\)", lambda found: f"url(#{ids[found[1]]})", value)
    return re.sub(
        r"^rgb\((\d+), (\d+), (\d+)\)$", lambda found: "#{:02x}{:02x}{:02x}".format(*map(int, found.groups())), value
    )


def shrink(group: ElementTree.Element) -> None:
    """Leaves out what is not painted, dissolves groups that do nothing, and gives a group what its parts share."""
    parts: list[ElementTree.Element] = []
    for part in group:
        if part.tag in ("defs", "clipPath"):  # whose shapes are not painted, and count
            parts.append(part)
            continue
        shrink(part)
        if part.tag == "g" and not part.attrib:
            parts += part
        elif painted(part):
            parts.append(part)
    group[:] = parts
    if group.tag != "g" or len(parts) < 2:
        return
    for name in INHERITED:
        values = Counter(part.attrib.get(name) for part in parts)
        shared, count = values.most_common(1)[0]
        if None not in values and shared is not None and count > 1 and name not in group.attrib:
            group.attrib[name] = shared
            for part in parts:
                if part.attrib[name] == shared:
                    del part.attrib[name]


def painted(part: ElementTree.Element) -> bool:
    """Whether a part, with what `shrink` has left in it, leaves a trace in the picture."""
    if part.attrib.get("opacity") == "0":
        return False
    if part.tag == "g":
        return len(part) > 0
    if part.tag == "path":
        return bool(part.attrib.get("d")) and any(
            part.attrib.get(name, "none") != "none" for name in ("fill", "stroke")
        )
    return True
