"""Fetching archives: once, resumed after a break, checked, from mirrors, and refused in words that help."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from normbench.data import fetch
from normbench.system.errors import UserError
from tests.support.archive_server import Server
from tests.support.prepared import md5

pytestmark = pytest.mark.usefixtures("own_folders")
CONTENT = np.random.default_rng(0).integers(0, 256, 700_000, np.uint8).tobytes()


def nobody() -> str:
    """An address at which nothing listens: port 9 (discard) refuses at once."""
    return "http://127.0.0.1:9/"


def get(server: Server, mirror: str | None = None, name: str = "a.bin", others: tuple[str, ...] = ()) -> Path:
    """Fetches CONTENT from the server's address, after the addresses in `others`."""
    addresses = tuple(f"{place}{name}" for place in (*others, server.address))
    archive = fetch.Archive(name, md5(CONTENT), addresses)
    return fetch.fetch([archive], Path("down"), "mine", "source", mirror)[0]


def test_fetches_once(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    assert get(server).read_bytes() == CONTENT
    assert get(server) == Path("down/a.bin")
    assert server.log == [("a.bin", None, 200, len(CONTENT))]
    assert not Path("down/a.bin.part").exists()


def test_goes_on_at_the_end_of_a_part(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    Path("down").mkdir()
    Path("down/a.bin.part").write_bytes(CONTENT[:300_000])
    assert get(server).read_bytes() == CONTENT
    assert server.log == [("a.bin", "bytes=300000-", 206, 400_000)]


def test_goes_on_after_a_break_and_only_with_the_rest(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    server.cut["a.bin"] = [100_000, 250_000]
    assert get(server).read_bytes() == CONTENT
    assert [(asked, sent) for _, asked, _, sent in server.log] == [
        (None, 100_000),
        ("bytes=100000-", 250_000),
        ("bytes=350000-", 350_000),
    ]


def test_a_break_keeps_its_part_for_the_next_call(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    server.cut["a.bin"] = [200_000, 0, 0, 0]
    with pytest.raises(UserError, match="connection closed after 200000 of 700000 bytes"):
        get(server)
    assert Path("down/a.bin.part").read_bytes() == CONTENT[:200_000]
    assert not Path("down/a.bin").exists()
    server.cut.clear()
    assert get(server).read_bytes() == CONTENT
    assert server.log[-1] == ("a.bin", "bytes=200000-", 206, 500_000)


def test_many_breaks_are_no_failure_while_bytes_arrive(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    server.cut["a.bin"] = [70_000] * 9
    assert get(server).read_bytes() == CONTENT
    assert len(server.log) == 10


def test_a_server_without_ranges_sends_all(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    server.ranges = False
    Path("down").mkdir()
    Path("down/a.bin.part").write_bytes(b"x" * 300_000)
    assert get(server).read_bytes() == CONTENT
    assert server.log == [("a.bin", "bytes=300000-", 200, len(CONTENT))]


@pytest.mark.parametrize(
    ("part", "requests"),
    [
        (CONTENT, [("bytes=700000-", 416)]),  # whole, killed before it took its name
        (CONTENT + b"more", [("bytes=700004-", 416), (None, 200)]),  # of a file that was longer then
        (b"x" * 1000, [("bytes=1000-", 206), (None, 200)]),  # of another file: the md5 tells
        (b"x" * 700_000, [("bytes=700000-", 416), (None, 200)]),
    ],
)
def test_a_part_that_is_not_the_beginning(server: Server, part: bytes, requests: list) -> None:
    server.contents["a.bin"] = CONTENT
    Path("down").mkdir()
    Path("down/a.bin.part").write_bytes(part)
    assert get(server).read_bytes() == CONTENT
    assert [(asked, status) for _, asked, status, _ in server.log] == requests


@pytest.mark.parametrize("broken", [CONTENT[:1234], b"<html>log in first</html>", b""])
def test_a_truncated_or_wrong_file_is_replaced(server: Server, broken: bytes) -> None:
    server.contents["a.bin"] = CONTENT
    Path("down").mkdir()
    Path("down/a.bin").write_bytes(broken)
    assert get(server).read_bytes() == CONTENT


def test_wrong_content_is_fetched_again_once(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    server.wrong["a.bin"] = [b"captive portal"]
    assert get(server).read_bytes() == CONTENT
    assert len(server.log) == 2


def test_wrong_content_twice_is_an_error_and_leaves_nothing(server: Server) -> None:
    server.contents["a.bin"] = b"always another file"
    with pytest.raises(UserError, match=f"{md5(b'always another file')}, 19 bytes: another file"):
        get(server)
    assert len(server.log) == 2
    assert not Path("down/a.bin").exists()
    assert not Path("down/a.bin.part").exists()


def test_retries_a_server_error_but_not_a_refusal(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    server.statuses["a.bin"] = [500, 503]
    assert get(server).read_bytes() == CONTENT
    assert [status for _, _, status, _ in server.log] == [500, 503, 200]
    server.log.clear()
    Path("down/a.bin").unlink()
    server.statuses["a.bin"] = [404]
    with pytest.raises(UserError, match=r"a\.bin: HTTP 404"):
        get(server)
    assert [status for _, _, status, _ in server.log] == [404]


def test_addresses_are_tried_in_their_order(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    assert get(server, others=(nobody(), f"{server.address}gone/")).read_bytes() == CONTENT
    assert [(name, status) for name, _, status, _ in server.log] == [("gone/a.bin", 404), ("a.bin", 200)]


@pytest.mark.parametrize("inside", ["", "source/"])
def test_a_mirror_replaces_the_address(server: Server, inside: str) -> None:
    server.contents[f"mirror/{inside}a.bin"] = CONTENT
    assert get(server, mirror=f"{server.address}mirror/").read_bytes() == CONTENT
    assert all(name.startswith("mirror/") for name, *_ in server.log)


@pytest.mark.parametrize("inside", ["", "source"])
def test_a_mirror_folder_is_copied(server: Server, tmp_path: Path, inside: str) -> None:
    original = tmp_path / "mirror" / inside / "a.bin"
    original.parent.mkdir(parents=True)
    original.write_bytes(CONTENT)
    assert get(server, mirror=str(tmp_path / "mirror")).read_bytes() == CONTENT
    assert server.log == []
    assert original.exists()


def test_a_mirror_folder_is_checked(server: Server, tmp_path: Path) -> None:
    server.contents["a.bin"] = CONTENT
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/a.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=f"{md5(CONTENT[:-1])}, 699999 bytes"):
        get(server, mirror=str(tmp_path / "mirror"))
    assert server.log == []
    assert not Path("down/a.bin").exists()


def test_two_at_once_fetch_once(server: Server) -> None:
    server.contents["a.bin"] = CONTENT
    threads = [threading.Thread(target=get, args=(server,)) for _ in range(4)]
    server.gate.clear()
    for thread in threads:
        thread.start()
    time.sleep(0.2)  # for the other three to ask as well, did the first not keep them waiting
    server.gate.set()
    for thread in threads:
        thread.join()
    assert Path("down/a.bin").read_bytes() == CONTENT
    assert len(server.log) == 1


def test_what_is_said_with_no_network_and_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    archives = [fetch.Archive(name, md5(name.encode()), (f"{nobody()}{name}",)) for name in ("a.gz", "b.gz")]
    Path("down").mkdir()
    Path("down/a.gz").write_bytes(b"half")
    with pytest.raises(UserError) as caught:
        fetch.fetch(archives, Path("down"), "mine", "mnist", None)
    text = str(caught.value)
    assert len(text.splitlines()) <= 12
    assert max(map(len, text.splitlines())) <= 140
    assert "dataset 'mine'" in text
    for archive in archives:
        assert f"{archive.name}  (md5 {archive.checksum})" in text
    assert f"down/a.gz: md5 {md5(b'half')}, 4 bytes: truncated" in text
    assert f"{nobody()}a.gz: Connection refused" in text
    assert "mirror: none is set" in text
    ways = [line for line in text.splitlines() if line.startswith("  - ")]
    assert len(ways) == 3
    assert "down/" in ways[0]
    assert "NORMBENCH_MIRROR" in ways[1]
    assert "`mirror:`" in ways[1]
    assert "npz" in ways[2]

    (tmp_path / "mirror").mkdir()
    with pytest.raises(UserError) as caught:
        fetch.fetch(archives, Path("down"), "mine", "mnist", "mirror")
    text = str(caught.value)
    assert "mirror/a.gz: not there" in text
    assert "mirror/mnist/a.gz: not there" in text
    assert nobody() not in text
