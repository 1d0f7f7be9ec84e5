"""A reader of the page."""

from __future__ import annotations

import html.parser
import re


class Page(html.parser.HTMLParser):
    """Collects what a page loads and links to, its ids and its tables; fails where elements are not nested.

    rows: the texts of the cells of each table row, without small print and signs. classes: those of the same cells.
    prose: the text outside of scripts and styles.
    """

    VOID = frozenset({"meta", "br", "img", "input"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.uses: list[str] = []
        self.rows: list[list[str]] = []
        self.classes: list[list[set[str]]] = []
        self.seen: set[str] = set()
        self.sign = False
        self.prose = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        values = {key: value or "" for key, value in attributes}
        classes = set(values.get("class", "").split())
        if tag == "a":
            self.links.append(values["href"])
        else:
            self.loads += [values[key] for key in ("src", "srcset", "href", "xlink:href", "data") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        self.uses += re.findall(r"url\(#([^)]+)\)", " ".join(values.values()))
        self.sign = tag == "span" and bool(classes & {"sign", "tag"})
        if tag == "tr":
            self.rows.append([])
            self.classes.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.classes[-1].append(classes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.sign = False

    def handle_data(self, data: str) -> None:
        if "script" in self.open or "style" in self.open:
            return
        self.prose += data
        if ("td" in self.open or "th" in self.open) and "small" not in self.open and not self.sign:
            self.rows[-1][-1] += data

    def table(self, head: str) -> dict[str, list[str]]:
        """The rows of the first table that has a column with a heading, by what stands first in them."""
        texts = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        start = next(place for place, row in enumerate(texts) if head in row)
        width = len(texts[start])
        found = {}
        for row in texts[start + 1 :]:
            if len(row) != width or row[0] == texts[start][0]:
                break
            found[row[0]] = row[1:]
        return found
