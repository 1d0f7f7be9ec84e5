"""What is printed steers no terminal and forges no line, and one place prints."""

from __future__ import annotations

import ast
import io
import itertools
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from typer.testing import CliRunner

import normbench
from normbench import cli
from normbench.runs import store
from normbench.sweep.board import Board
from normbench.system import files, progress
from normbench.system.errors import UserError, hint
from normbench.system.progress import Progress
from normbench.system.stage import guarded
from normbench.system.text import clean, excerpt, say
from tests.support import sample_runs
from tests.support.suite_folder import SuiteFolder

PACKAGE = Path(normbench.__file__).parent
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "stages").glob("*.py")])
ACTING = "\x1b[2J\x1b]0;title\x07\r\n\t\x00\x7f\x85\x9b2J\u202e\u2066\u200b\u200f\u2028\u2029\ufeff\udc80\U000e0041\xad"


def acts(text: str) -> list[str]:
    return [char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and char != "\n"]


def test_every_character_that_acts_is_an_escape() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    cleaned = clean(every)
    assert acts(cleaned) == []
    assert "\n" not in cleaned
    shown = [char for char in every if unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    assert all(char in cleaned for char in shown[::97])
    assert clean("\x1b[2J") == r"\x1b[2J"
    assert clean("a\nb\u202ec\udc80") == r"a\nb\u202ec\udc80"


@pytest.mark.parametrize("text", ["caf\xe9 ± \N{EN DASH} 图片 10⁴", "C:\\x1b", "a b", ""])
def test_other_text_stays(text: str) -> None:
    assert clean(text) == text


def test_an_excerpt_is_short() -> None:
    assert excerpt("x" * 10**6) == "'" + "x" * 80 + "...'"
    assert excerpt("\x1b") == r"'\x1b'"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_stream_cannot_encode_is_an_escape(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    say("± 图\x1b", "b", to=stream)
    assert raw.getvalue().decode(encoding).startswith({"utf-8": "± 图", "latin-1": r"± \u56fe"}.get(encoding, r"\xb1"))
    assert raw.getvalue().endswith(b"\\x1b\nb\n")


def test_a_line_break_in_a_name_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise UserError(f"{Path(ACTING)}: damaged", f"x: {hint(ACTING, ['a'])}")

    with pytest.raises(SystemExit):
        guarded(fails)
    shown = capsys.readouterr().err
    assert acts(shown) == []
    assert shown.count("\n") == 2
    assert str(UserError("a\nb", "c")) == "a\\nb\nc"


@pytest.mark.parametrize("error", [OSError(28, ACTING, ACTING), OSError(ACTING), FileNotFoundError(2, "no", ACTING)])
def test_errors_of_the_system(capsys: pytest.CaptureFixture[str], error: OSError) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(SystemExit):
        guarded(fails)
    shown = capsys.readouterr().err
    assert acts(shown) == []
    assert shown.count("\n") == 1


def test_an_unexpected_error_has_its_traceback_cleaned() -> None:
    code = (
        "import sys; from normbench.system.text import show_traceback; sys.excepthook = show_traceback\n"
        "raise type('Bad\\x1b[2J', (ValueError,), {})('\\x1b[2J\\udc80\\u202e')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert r"Bad\x1b[2J: \x1b[2J\udc80\u202e" in done.stderr
    assert acts(done.stderr) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, plain in itertools.product((io.StringIO(), Terminal()), (False, True)):
        monkeypatch.setattr(progress, "plain", plain)
        monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
        with Progress(f"evil\u202e\x9b2J[red]{ACTING}", 2, stream) as shown:
            shown.update(1, f"[blink]{ACTING}\x9b2J")
            shown.close(ACTING)
        text = stream.getvalue()
        assert r"\u202e\x9b2J[red]" in text
        assert not {"\u202e", "\x9b", "\x07", "\udc80"} & set(text)
        assert "\x1b[2J" not in text.replace("\x1b[2K", "")


def test_the_board_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    run = sample_runs.run(title=f"[red]t{ACTING}")
    for stream in (io.StringIO(), Terminal()):
        with Board([run], stream) as board:
            board.tell(run.id, "running", 0.5, f"[bold]{ACTING}")
            board.note(f"Traceback\n{ACTING}")
            board.tell(run.id, "failed", fields=f"failed: {ACTING}")
        text = stream.getvalue()
        assert "[red]t" in text
        assert not {"\u202e", "\x9b", "\x07", "\udc80", "\u2066"} & set(text)
        assert "\x1b[2J" not in text


def test_a_record_with_bad_names_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of a run that another machine has made are what that machine says."""
    folder = SuiteFolder(tmp_path / "suite")
    monkeypatch.chdir(folder.path)
    monkeypatch.setenv("NORMBENCH_STORE", str(folder.path / "runs"))
    name = "=cmd\u202e\u2066\u200b\u200f\ufeff\U000e0041\xad"  # records refuse control characters, but not these
    bad = sample_runs.run(variant=sample_runs.variant(name=name))
    with files.atomic_folder(store.folder(bad.id)) as made:
        sample_runs.finished(bad, made)
    for options in ([], ["--json"]):
        done = CliRunner().invoke(cli.app, ["runs", "list", *options])
        assert done.exit_code == 0, done.output
        assert bad.id in done.output
        assert acts(done.output) == []
        assert sum(bad.id in line for line in done.output.splitlines()) == 1


def calls(path: Path) -> list[tuple[int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(node.lineno, ast.unparse(node.func)) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_one_place_prints() -> None:
    printing = {"print", "typer.echo", "click.echo", "sys.stdout.write", "sys.stderr.write", "os.write", "pprint"}
    found = {path.name: [call for call in calls(path) if call[1] in printing] for path in SOURCES}
    assert {name: each for name, each in found.items() if each} == {}


# These folders compute from tensors that the package has made, and their code is part of the ids of runs.
COMPUTING = ("functional", "methods", "models", "spectral", "training")


def narrows(test: ast.expr) -> bool:
    """Whether a condition is only what a checker of types needs: isinstance(x, T), or x is not None."""
    match test:
        case ast.Call(func=ast.Name(id="isinstance")):
            return True
        case ast.Compare(ops=[ast.IsNot()], comparators=[ast.Constant(value=None)]):
            return True
    return False


def test_no_assert_guards_what_comes_from_outside() -> None:
    """Asserts vanish under `python -O`."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert) and not (path.parent.name in COMPUTING and narrows(node.test)):
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
