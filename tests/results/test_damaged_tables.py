"""The report is made only of tables that are as `aggregate` wrote them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from normbench.results.report import report
from normbench.results.tables import aggregate
from normbench.system.errors import UserError

TABLES = Path("build/tables")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (flip, "is not what was written"),
    (lambda path: path.write_bytes(b""), "is not what was written"),
    (pipe, "cannot be read: is no file"),  # It is not waited for.
    (Path.unlink, "is missing"),
]


@pytest.mark.usefixtures("suite")
def test_each_file() -> None:
    aggregate()
    page = Path("results/report.html")
    report()
    before = page.read_bytes()
    names = [path for path in TABLES.rglob("*") if path.is_file() and path.name != "sha256.json"]
    assert {path.suffix for path in names} == {".csv", ".json", ".png"}
    for path in names:
        content = path.read_bytes()
        for damage, line in DAMAGE:
            damage(path)
            with pytest.raises(UserError) as error:
                report()
            assert str(error.value) == (
                f"{path}: {line}; `dvc repro` restores it (without DVC: `python -m stages.aggregate`)"
            )
            path.unlink(missing_ok=True)
            path.write_bytes(content)
    assert page.read_bytes() == before
    report()


@pytest.mark.usefixtures("suite")
def test_what_does_not_belong_to_them() -> None:
    aggregate()
    (TABLES / "samples/other.png").write_bytes(b"x")
    with pytest.raises(UserError, match=f"^{TABLES}/samples/other.png: is not of these tables"):
        report()
    aggregate()
    for content in (b"", b"[]", b"{"):
        (TABLES / "sha256.json").write_bytes(content)
        with pytest.raises(UserError, match=f"^{TABLES}/sha256.json: is missing or damaged"):
            report()
