"""A reader of the page."""

from __future__ import annotations

import html.parser
import re


class Page(html.parser.HTMLParser):
    """Collects what a page loads and links to, its ids and its tables; fails where elements are not nested."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.uses: list[str] = []
        self.rows: list[list[str]] = []
        self.marked: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        values = {key: value or "" for key, value in attributes}
        if tag == "a":
            self.links.append(values["href"])
        else:
            self.loads += [values[key] for key in ("src", "srcset", "href", "xlink:href", "data") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        self.uses += re.findall(r"url\(#([^)]+)\)", " ".join(values.values()))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            if "best" in values.get("class", "").split():
                self.marked.append(self.rows[-1][0])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if ("td" in self.open or "th" in self.open) and "small" not in self.open:
            self.rows[-1][-1] += data
