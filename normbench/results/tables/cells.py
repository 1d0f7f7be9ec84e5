"""Cells of CSV files and of Markdown tables: text that programs which open them show, and do not act on."""

from __future__ import annotations

import re

from normbench.system.text import clean

ACTS = tuple(
    "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
QUOTE = "'"  # in front of a cell, it tells a spreadsheet that the cell is text
SYNTAX = re.compile(r"([\\`*\[\]<>|#~&])|(?<![^\W_])(_)|(_)(?![^\W_])")  # an _ within a word is only a character


def csv_cell(text: str) -> str:
    """Returns a text as a cell of a CSV file, quoted where needed.

    A text that a spreadsheet would calculate (`=cmd|...`) gets an apostrophe in front, and so does one that begins with
    an apostrophe, so that `original` can take it away. Numbers stay as they are.
    """
    line = clean(text)
    begins = line.lstrip()[:1]
    if line.startswith(QUOTE) or (begins in ACTS and begins and not NUMBER.fullmatch(line)):
        line = QUOTE + line
    return '"' + line.replace('"', '""') + '"' if any(char in line for char in ',;"') or line != line.strip() else line


def original(cell: str) -> str:
    """Returns the text of a cell that was read from a CSV file of ours, as it was but for control characters."""
    return cell.removeprefix(QUOTE)


def markdown_cell(text: str) -> str:
    """Returns a text as it is shown in a cell of a Markdown table: no code, link, emphasis, HTML or further cell."""
    line = SYNTAX.sub(lambda found: "\\" + found[0], clean(text))
    return line.replace("://", "\\://").replace("www.", "www\\.")


def csv_text(lines: list[list[str]]) -> str:
    """Returns the text of a CSV file. lines: the header, and then the rows, as texts."""
    return "".join(",".join(map(csv_cell, line)) + "\n" for line in lines)
