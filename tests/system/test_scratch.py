"""Whatever moment a writer is killed at, the old or the new content is there, and the next writer clears up."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from normbench.system import files, scratch
from normbench.system.errors import UserError
from tests.support import forks

ROOT = Path(__file__).resolve().parents[2]

# Runs a writer in the folder argv[1] and kills itself before (or after) its n-th call of the system that changes a
# folder; exits with 0 if the writer makes fewer calls. `exchange` is whether two names can be exchanged in one step.
KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from normbench.system import files, scratch

os.chdir(sys.argv[1])
writer, number, after, exchange = sys.argv[2], int(sys.argv[3]), sys.argv[4] == "after", sys.argv[5] == "exchange"
calls = itertools.count(1)

def deadly(real):
    def call(*arguments, **options):
        this = next(calls) == number
        if this and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return real(*arguments, **options)
        finally:
            if this:
                os.kill(os.getpid(), signal.SIGKILL)
    return call

if not exchange:
    scratch.exchange = lambda one, other: False
for name in ("rename", "replace", "mkdir", "rmdir", "unlink", "fsync"):
    setattr(os, name, deadly(getattr(os, name)))
scratch.exchange = deadly(scratch.exchange)
scratch.fcntl.flock = deadly(scratch.fcntl.flock)

if writer == "folder":
    with files.atomic_folder("made") as folder:
        (folder / "inside").mkdir()
        files.write_text(folder / "inside/a", "new")
        files.write_text(folder / "b", "new")
else:
    files.write_text("made", "new")
"""


def content(path: Path) -> dict[str, str] | str | None:
    if path.is_file():
        return path.read_text()
    if not path.exists():
        return None
    return {str(file.relative_to(path)): file.read_text() for file in sorted(path.rglob("*")) if file.is_file()}


def write(writer: str, text: str) -> None:
    if writer == "file":
        files.write_text("made", text)
        return
    with files.atomic_folder("made") as folder:
        (folder / "inside").mkdir()
        (folder / "inside/a").write_text(text)
        (folder / "b").write_text(text)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("writer", "how"), [("file", "exchange"), ("folder", "exchange"), ("folder", "two renames")])
def test_a_kill_at_any_call_loses_nothing(writer: str, how: str, moment: str, here: Path) -> None:
    """The old content or the new is there after the kill; where names cannot be exchanged, after the next look."""
    old, new = ("old", "new") if writer == "file" else ({"b": t, "inside/a": t} for t in ("old", "new"))
    seen: list[object] = []
    for number in range(1, 100):
        write(writer, "old")
        arguments = ("-c", KILLED, str(here), writer, str(number), moment, how)
        code = forks.run(*arguments, cwd=here, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode
        assert code in (0, -signal.SIGKILL)
        found = content(here / "made")
        if found is None:
            assert how == "two renames"
            scratch.clear(here / "made")
            found = content(here / "made")
            assert found == new  # which was whole before the old content was moved away
        assert found in (old, new)
        seen.append(found)
        assert all(scratch.is_temporary(path) for path in here.iterdir() if path.name != "made")
        write(writer, "old")
        assert [path.name for path in here.iterdir()] == ["made"]
        assert content(here / "made") == old
        if code == 0:
            break
    assert seen[0] == old
    assert seen[-1] == new
    assert number > (4 if writer == "file" else 12)


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is of Linux")
def test_names_are_exchanged(here: Path) -> None:
    for name in ("one", "other"):
        (here / name).mkdir()
        (here / name / name).touch()
    assert scratch.exchange(here / "one", here / "other")
    assert [path.name for path in (here / "one").iterdir()] == ["other"]
    assert not scratch.exchange(here / "one", here / "missing")
    assert (here / "one").is_dir()


def test_a_reader_always_finds_the_folder(here: Path) -> None:
    """Another process reads while the folder is replaced over and over."""
    if not scratch.exchange(_made(here / "x"), _made(here / "y")):
        pytest.skip("this file system cannot exchange names")
    write("folder", "old")
    reader = "import os, sys\nsys.stdin.read(1)\nfor _ in range(20000): os.stat('made/b')"
    process = subprocess.Popen([sys.executable, "-c", reader], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    while process.poll() is None:
        write("folder", "new")
    assert process.communicate()[1] == b""


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_folder_of_a_running_process_is_left_alone(here: Path) -> None:
    with files.atomic_folder(here / "made") as mine:
        (mine / "a").write_text("mine")
        with files.atomic_folder(here / "made") as other:
            (other / "a").write_text("other")
        assert content(here / "made") == {"a": "other"}
        assert scratch.left_behind(here) == []
        scratch.discard(mine.parent)
        assert (mine / "a").read_text() == "mine"
    assert content(here / "made") == {"a": "mine"}
    assert [path.name for path in here.iterdir()] == ["made"]


def test_a_folder_is_in_use_while_a_child_of_its_dead_owner_works_in_it(here: Path) -> None:
    """As the workers of a stage that was killed, which hold the lock of their parent."""
    code = """
import os, signal, sys, time
from normbench.system import files
with files.atomic_folder("made") as folder:
    if os.fork() == 0:
        time.sleep(600)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=here, start_new_session=True)
    process.wait()
    try:
        assert len(list(here.iterdir())) == 1
        assert scratch.left_behind(here) == []
        write("file", "new")
        assert len(list(here.iterdir())) == 2
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    for _ in range(100):
        if scratch.left_behind(here):
            break
        time.sleep(0.05)
    write("file", "newer")
    assert [path.name for path in here.iterdir()] == ["made"]


def test_only_what_has_the_name_of_the_target_is_cleared(here: Path) -> None:
    for name in (".a.00000000.partial", ".a.b.00000000.partial", ".a.notes", ".a.0000000g.partial"):
        (here / name).mkdir()
    (here / ".a.11111111.partial").symlink_to(here / ".a.notes")
    files.write_text(here / "a", "text")
    assert sorted(path.name for path in here.iterdir()) == [
        ".a.0000000g.partial",
        ".a.b.00000000.partial",
        ".a.notes",
        "a",
    ]


def test_what_is_no_folder_is_cleared_too(here: Path) -> None:
    os.mkfifo(here / ".a.00000000.partial")
    (here / ".a.11111111.partial").write_text("")
    files.write_text(here / "a", "text")
    assert [path.name for path in here.iterdir()] == ["a"]


def test_file_systems_without_locks(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can know there whether an owner lives, so that nothing is removed."""

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (here / ".made.00000000.partial").mkdir()
    monkeypatch.setattr(scratch.fcntl, "flock", refused)
    write("folder", "new")
    assert content(here / "made") == {"b": "new", "inside/a": "new"}
    assert sorted(path.name for path in here.iterdir()) == [".made.00000000.partial", "made"]


def test_a_folder_that_is_taken_for_left_behind_before_it_is_locked(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = scratch.fcntl.flock, []

    def late(handle: int, operation: int) -> None:
        calls.append(handle)
        if len(calls) == 1:
            (found,) = here.glob(".made.*")
            found.rmdir()
        real(handle, operation)

    monkeypatch.setattr(scratch.fcntl, "flock", late)
    write("file", "new")
    assert content(here / "made") == "new"
    assert len(calls) >= 2


@pytest.mark.parametrize(
    ("work", "line"),
    [
        (lambda: write("folder", "new"), "made: a file, where a folder is needed; move it away"),
        (lambda: files.write_text("made/a", "new"), "made: a file, where a folder is needed; move it away"),
        (lambda: files.write_text("made/a/b", "new"), "made: a file, where a folder is needed; move it away"),
    ],
)
def test_a_file_where_a_folder_is_needed(work: Callable[[], None], line: str, here: Path) -> None:
    (here / "made").write_text("a user's")
    with pytest.raises(UserError) as caught:
        work()
    assert str(caught.value) == line
    assert content(here / "made") == "a user's"
    assert [path.name for path in here.iterdir()] == ["made"]


def test_a_link_is_replaced_and_what_it_points_to_is_not(here: Path) -> None:
    (here / "elsewhere").mkdir()
    (here / "elsewhere/a").write_text("kept")
    (here / "made").symlink_to("elsewhere")
    write("folder", "new")
    assert content(here / "made") == {"b": "new", "inside/a": "new"}
    assert not (here / "made").is_symlink()
    assert content(here / "elsewhere") == {"a": "kept"}


def test_long_names(here: Path) -> None:
    name = "a" * 250
    files.write_text(here / name, "new")
    assert [path.name for path in here.iterdir()] == [name]
    with pytest.raises(OSError, match="File name too long") as caught:
        files.write_text(here / ("a" * 300), "new")
    assert caught.value.filename == str(here / ("a" * 300))
    assert [path.name for path in here.iterdir()] == [name]
