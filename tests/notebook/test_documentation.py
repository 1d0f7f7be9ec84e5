"""The examples for notebooks run as they are written: those of docs/notebook.md, and of README.md."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest

import normbench
from normbench import notebook
from normbench.notebook.comparison import RECIPE
from normbench.suite.file import ParamsFile

ROOT = Path(__file__).resolve().parents[2]
# What makes the examples quick; they say what they are about.
QUICK: dict[str, Any] = {
    "image_size": 8,
    "model_options": {"width": 4},
    "epochs": 1,
    "batch_size": 90,
    "corruptions": "fog",
}


def blocks(path: str) -> list[str]:
    """The Python code of a page that is for notebooks."""
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return found if path == "docs/notebook.md" else [each for each in found if "normbench.compare" in each]


@pytest.mark.parametrize("path", ["docs/notebook.md", "README.md"])
def test_examples(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebook, "compare", functools.partial(notebook.compare, severities=[3], quiet=True, **QUICK))
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(path):
        exec(block, names)
    assert list(tmp_path.iterdir()) == []
    if path == "docs/notebook.md":
        board, found = names["board"], names["found"]
        assert set(board["variant"]) == {"MyNorm", "batch_norm", "group_norm(groups=4)"}
        assert board["finished"].tolist() == [3, 3, 3]
        rows = names["right"]
        assert rows.shape == (3 * 359, 3)
        assert rows.mean().to_dict() == pytest.approx(board.set_index("variant")["clean_accuracy"].to_dict())
        assert set(found) >= {"clean_accuracy", "calibration", "corruption_accuracy", "smoothness", "features"}
        assert "attacks" not in found
        assert found["smoothness"]["bound"] > 0


def test_the_default_recipe_is_that_of_the_default_suite() -> None:
    (task,) = ParamsFile(ROOT / "suites/digits.yaml").params.tasks.values()
    assert task.recipe.model_dump(exclude_unset=True) == RECIPE
    assert task.model == "resnet8"


def test_names_are_known_before_they_are_imported() -> None:
    assert {"compare", "score", "Comparison"} <= {*dir(normbench)}
    assert normbench.score is notebook.score
    with pytest.raises(AttributeError, match="has no attribute 'compair'"):
        normbench.compair  # type: ignore[attr-defined]  # noqa: B018
