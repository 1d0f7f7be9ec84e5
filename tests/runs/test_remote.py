"""A run store at an address: what it refuses for a while ends no run, and what is damaged there counts as missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from normbench.runs import remote, store
from normbench.runs.remote import Remote

RUN = "0123456789abcdef"


def test_checkpoints_are_copied_when_the_address_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path / "runs"))
    monkeypatch.setattr(remote, "MIRROR_INTERVAL", 0.01)
    there = Remote(f"file://{tmp_path}/there")
    store.unfinished(RUN).mkdir(parents=True)
    (store.unfinished(RUN) / "000001-0123456789abcdef.pt").write_bytes(b"x")
    calls = []

    def put_file(*arguments: str) -> None:
        calls.append(arguments)
        if len(calls) <= 3:
            raise OSError("503 slow down")
        original(*arguments)

    original = there.system.put_file
    monkeypatch.setattr(there.system, "put_file", put_file)
    with there.mirrored(RUN):
        for _ in range(1000):
            if (tmp_path / f"there/{RUN}.unfinished/000001-0123456789abcdef.pt").is_file():
                break
            remote.threading.Event().wait(0.01)
    assert len(calls) == 4
    assert capsys.readouterr().err.count("503 slow down") == 1
    assert [path.name for path in (tmp_path / f"there/{RUN}.unfinished").iterdir()] == ["000001-0123456789abcdef.pt"]


def test_an_address_that_refuses_to_the_end_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path / "runs"))
    there = Remote(f"file://{tmp_path}/there")
    store.unfinished(RUN).mkdir(parents=True)
    (store.unfinished(RUN) / "000001-0123456789abcdef.pt").write_bytes(b"x")

    def refuse(*_: str) -> None:
        raise OSError("403 forbidden")

    monkeypatch.setattr(there.system, "put_file", refuse)
    with there.mirrored(RUN):
        pass


def test_a_damaged_archive_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path / "runs"))
    there = Remote(f"file://{tmp_path}/there")
    archive = tmp_path / "there" / f"{RUN}-{'0' * 16}.run.tar"
    archive.write_bytes(b"x" * 2000)
    assert not there.take(RUN)
    assert f"{archive}: damaged, or no archive of a run: invalid header" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "there").iterdir()] == [f"{archive.name}.damaged"]
    assert not there.take(RUN)
