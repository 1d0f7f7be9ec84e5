"""What code a result depends on: a file, all project files that it imports, and one hash over them."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from normbench.system import files

PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def closure(path: str | Path) -> list[Path]:
    """The file and every file that it imports, directly or not, from this package or from beside itself.

    Imports are read from the source, also those inside functions; installed packages are not followed (their versions
    stand in each record).
    """
    start = Path(path).resolve()
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += _imported(current, start)
    return sorted(found)


def import_root(path: Path) -> Path:
    """The folder from which a file is imported: above its outermost package."""
    folder = path.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _imported(path: Path, start: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from _module_files(name.name.split("."), start)
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                folder = path.parents[node.level - 1]
                base = [*folder.relative_to(import_root(path)).parts, *base]
            for name in node.names:
                yield from _module_files([*base, name.name], start)


def _module_files(parts: list[str], start: Path) -> Iterator[Path]:
    """The files of a dotted name: every package on the way, and the module where the last part is one."""
    root = PACKAGE_ROOT if parts[0] == "normbench" else import_root(start)
    in_package = root != start.parent
    if parts[0] != "normbench" and (
        root.name in {"site-packages", "dist-packages"}
        if not in_package
        else start.relative_to(root).parts[0] != parts[0]
    ):
        return
    for length in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:length])
        for candidate in (place / "__init__.py", place.with_name(place.name + ".py")):
            if candidate.is_file():
                yield candidate


def code(paths: Iterable[str | Path]) -> str:
    """One sha256 over the closures of these files: names relative to the package, or to their own folder, and bytes."""
    digest = hashlib.sha256()
    named = {}
    for path in paths:
        for file in closure(path):
            inside = file.is_relative_to(PACKAGE_ROOT / "normbench")
            named[file.relative_to(PACKAGE_ROOT if inside else import_root(file)).as_posix()] = files.sha256(file)
    for name in sorted(named):
        digest.update(f"{name} {named[name]}\n".encode())
    return digest.hexdigest()
