"""Fixtures that the tests of fetching and of the sources share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from normbench.data import fetch
from tests.support.archive_server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty server. Fetching does not wait between its requests."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "WAITS", (0.0, 0.0))
    server = Server()
    yield server
    server.close()


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the test run in an empty folder, without settings of the machine's owner."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NORMBENCH_MIRROR", raising=False)
    monkeypatch.delenv("NORMBENCH_DOWNLOADS", raising=False)
