"""What the script needs to show any two variants of a task side by side, and differences to any variant in tables."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pandas as pd

from normbench.results.page.names import measure
from normbench.results.page.verdicts import Verdicts, rounded

SHARES = ("both_right", "only_first", "only_second", "both_wrong")


def comparable(
    names: list[str],
    means: pd.DataFrame,
    verdicts: Verdicts,
    corruptions: pd.DataFrame,
    classes: pd.DataFrame,
    agreement: pd.DataFrame,
) -> dict[str, Any]:
    """Returns the data of a task.

    names: of the variants, in the order of the suite. means: as `leaderboard` takes them. The other tables are the rows
    of the task. Tables of accuracies are lists with one list for each variant; agreement has one for each pair in the
    order of `itertools.combinations`.
    """
    return {
        "variants": names,
        "measures": [
            {
                "key": key,
                "label": f"{words.head} ({words.small})",
                "factor": words.factor,
                "unit": words.unit,
                "values": [rounded(value) for value in means.reindex(names)[key]] if key in means else None,
                **verdicts.data(key, names, words.factor),
            }
            for key in verdicts.measures
            for words in [measure(key)]
        ],
        "parts": [
            part
            for part in (
                by_part("Accuracy by corruption", "Corruption", names, corruptions, "corruption", "mean"),
                by_part("Accuracy by class", "Class", names, classes, "class", "accuracy"),
            )
            if part["names"]
        ],
        "agreement": shared(names, agreement),
    }


def by_part(title: str, head: str, names: list[str], table: pd.DataFrame, key: str, column: str) -> dict[str, Any]:
    """Returns accuracies by corruption or by class."""
    parts = [str(part) for part in dict.fromkeys(table[key])] if len(table) else []
    rows = table.to_dict("records")
    found = {(row["variant"], str(row[key])): float(row[column]) for row in rows}
    values = [[rounded(found.get((name, part), math.nan)) for part in parts] for name in names]
    return {"title": title, "head": head, "names": [part.replace("_", " ") for part in parts], "values": values}


def shared(names: list[str], table: pd.DataFrame) -> list[list[float | None]]:
    """Returns for each pair the shares of images that both, only the first, only the second and neither got right."""
    if not len(table):
        return []
    found = {
        (row["variant"], row["other"]): [rounded(row[share]) for share in SHARES] for row in table.to_dict("records")
    }
    pairs = []
    for first, second in itertools.combinations(names, 2):
        own = found.get((first, second))
        if own is None:
            right, there, here, wrong = found.get((second, first), [None] * 4)
            own = [right, here, there, wrong]
        pairs.append(own)
    return pairs
