"""Datasets: fetching (resumed, checked, mirrored, refused in words), every source, the fingerprint.

The archives are small ones in the real formats, made here, behind a server on this machine that can misbehave.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import pickle
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.data import fetch, sources
from normbench.system import files
from normbench.system.errors import UserError
from stages import download

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
DIGITS_FINGERPRINT = "0771d1fa44cc6de7327bd138646853cd5f54ecc29ce3e33d0ff254969e5fdd88"


# ---------------------------------------------------------------------------------------------------- the server


class Server:
    """Serves `contents` (path -> bytes). Each list is used up, one entry a request of that path, before all is well."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.ranges = True
        self.statuses: dict[str, list[int]] = {}  # answer with this status instead
        self.cut: dict[str, list[int]] = {}  # close after so many bytes of the body
        self.wrong: dict[str, list[bytes]] = {}  # send this instead
        self.log: list[tuple[str, str | None, int, int]] = []  # path, Range, status, bytes of body sent
        self.gate = threading.Event()  # answers wait until it is set
        self.gate.set()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}/"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        name, wanted = request.path.lstrip("/"), request.headers.get("Range")
        body, status, headers = self.contents.get(name, b""), 200, {}
        if self.wrong.get(name):
            body = self.wrong[name].pop(0)
        if self.statuses.get(name):
            body, status = b"", self.statuses[name].pop(0)
        elif name not in self.contents:
            status = 404
        elif wanted and self.ranges:
            start, total = int(wanted.removeprefix("bytes=").removesuffix("-")), len(body)
            if start >= total:
                body, status, headers = b"", 416, {"Content-Range": f"bytes */{total}"}
            else:
                body, status = body[start:], 206
                headers = {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
        sent = body[: self.cut[name].pop(0)] if self.cut.get(name) else body
        self.log.append((name, wanted, status, len(sent)))
        self.gate.wait(timeout=5)
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(sent)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch, "WAITS", (0.0, 0.0))
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NORMBENCH_MIRROR", raising=False)
    monkeypatch.delenv("NORMBENCH_DOWNLOADS", raising=False)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def nobody() -> str:
    """An address at which nothing listens: port 9 (discard) refuses at once."""
    return "http://127.0.0.1:9/"


# ---------------------------------------------------------------------------------------------------- fetching

CONTENT = np.random.default_rng(0).integers(0, 256, 700_000, np.uint8).tobytes()


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
        assert f"{archive.name}  (md5 {archive.md5})" in text
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


# ---------------------------------------------------------------------------------------------------- the sources


def spec(source: str, **given: Any) -> dict[str, Any]:
    keys = ("image_size", "path", "sha256", "mirror", "mean", "std", "note")
    return {"name": "mine", "source": source, **dict.fromkeys(keys), **given}


def prepared(source: str, **given: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What the stage leaves in build/data/mine."""
    files.write_json("build/resolved/datasets/mine.json", spec(source, **given))
    download.download("mine")
    folder = Path("build/data/mine")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [f"{n}.npy" for n in sources.ARRAYS] + ["meta.json"]
    )
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    arrays = {name: np.load(folder / f"{name}.npy") for name in sources.ARRAYS}
    meta = files.read_json(folder / "meta.json")
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert images.shape == (meta[split], meta["image_size"], meta["image_size"], meta["channels"])
        assert labels.shape == (meta[split],)
        assert labels.min() >= 0
        assert labels.max() < meta["classes"]
    return arrays, meta


def by_hand(arrays: dict[str, np.ndarray]) -> str:
    """The documented fingerprint, written out."""
    text = b""
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        kind = "uint8" if name.endswith("images") else "int64"
        shape = "x".join(str(length) for length in arrays[name].shape)
        text += f"{name} {kind} {shape}\n".encode() + arrays[name].astype(kind).tobytes()
    return hashlib.sha256(text).hexdigest()


def picture(count: int, size: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), np.uint8)


def idx(array: np.ndarray) -> bytes:
    """The IDX format of MNIST: 0, 0, type (8 for unsigned bytes), dimensions; each length big-endian; the bytes."""
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes(), mtime=0)


def tar(contents: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def mnist(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A small MNIST on the server, at the second of two addresses."""
    from torchvision import datasets

    arrays = {"train_images": picture(30, 28, 1), "train_labels": np.arange(30) % 10}
    arrays |= {"test_images": picture(20, 28, 1, seed=1), "test_labels": np.arange(20) % 10}
    resources = []
    for split, stem in (("train", "train"), ("test", "t10k")):
        for kind, suffix in (("images", "images-idx3"), ("labels", "labels-idx1")):
            name, array = f"{stem}-{suffix}-ubyte.gz", arrays[f"{split}_{kind}"]
            server.contents[name] = idx(array[..., 0] if kind == "images" else array)
            resources.append((name, md5(server.contents[name])))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server.address}moved/", server.address])
    return arrays


@pytest.fixture
def cifar10(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A small CIFAR-10 on the server: two training batches of 20 and one test batch."""
    from torchvision import datasets

    arrays = {"train_images": picture(40, 32, 3), "train_labels": np.arange(40) % 10}
    arrays |= {"test_images": picture(20, 32, 3, seed=1), "test_labels": np.arange(20)[::-1] % 10}

    def batch(images: np.ndarray, labels: np.ndarray) -> bytes:
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)
        return pickle.dumps({"data": planes, "labels": labels.tolist()}, protocol=2)

    images, labels = arrays["train_images"], arrays["train_labels"]
    contents = {
        "data_batch_1": batch(images[:20], labels[:20]),
        "data_batch_2": batch(images[20:], labels[20:]),
        "test_batch": batch(arrays["test_images"], arrays["test_labels"]),
        "batches.meta": pickle.dumps({"label_names": [f"class {label}" for label in range(10)]}, protocol=2),
    }
    archive = tar({f"cifar-10-batches-py/{name}": content for name, content in contents.items()})
    server.contents["cifar-10-python.tar.gz"] = archive
    sums = {name: md5(content) for name, content in contents.items()}
    kind = datasets.CIFAR10
    monkeypatch.setattr(kind, "url", f"{server.address}cifar-10-python.tar.gz")
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))
    monkeypatch.setattr(kind, "train_list", [[n, sums[n]] for n in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums["batches.meta"]})
    return arrays


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name in sources.ARRAYS:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_mnist(server: Server, mnist: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    arrays, meta = prepared("mnist")
    same(arrays, mnist)
    assert "mine: 30 + 20 images of 28x28x1 in 10 classes" in capsys.readouterr().out
    assert (meta["name"], meta["source"], meta["classes"], meta["channels"]) == ("mine", "mnist", 10, 1)
    assert meta["class_names"][3] == "3 - three"
    assert meta["origin"] == f"{server.address}moved/"
    pixels = mnist["train_images"] / 255
    assert meta["mean"] == pytest.approx([pixels.mean()])
    assert meta["std"] == pytest.approx([pixels.std()])
    assert meta["fingerprint"] == by_hand(arrays)
    names = [name for name, *_ in server.log if not name.startswith("moved/")]
    sums = "".join(f"{hashlib.sha256(server.contents[name]).hexdigest()}  {name}\n" for name in names)
    assert len(names) == 4
    assert meta["sha256"] == hashlib.sha256(sums.encode()).hexdigest()
    raw = Path("downloads/mnist/MNIST/raw")
    assert sorted(path.name for path in raw.glob("[!.]*")) == sorted(names)

    # Neither a half-unpacked file nor an old converted one beside the archives is read.
    (raw / "train-images-idx3-ubyte").write_bytes(b"half")
    (raw.parent / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        (raw.parent / "processed" / name).write_bytes(b"half")
    server.log.clear()
    assert prepared("mnist")[1] == meta
    assert server.log == []


def test_cifar10(server: Server, cifar10: dict[str, np.ndarray]) -> None:
    arrays, meta = prepared("cifar10", mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.1])
    same(arrays, cifar10)
    assert meta["class_names"] == [f"class {label}" for label in range(10)]
    assert (meta["mean"], meta["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.1])
    archive = server.contents["cifar-10-python.tar.gz"]
    assert (meta["origin"], meta["sha256"]) == (
        server.address + "cifar-10-python.tar.gz",
        hashlib.sha256(archive).hexdigest(),
    )
    assert meta["fingerprint"] == by_hand(arrays)

    # An archive that was cut short is fetched again; what an earlier unpacking left is not looked at.
    Path("downloads/cifar10/cifar-10-python.tar.gz").write_bytes(archive[:500])
    half = Path("downloads/cifar10/cifar-10-batches-py")
    half.mkdir()
    (half / "data_batch_1").write_bytes(b"half")
    arrays, meta = prepared("cifar10")
    same(arrays, cifar10)
    pixels = cifar10["train_images"] / 255
    assert meta["mean"] == pytest.approx(pixels.mean((0, 1, 2)))
    assert meta["std"] == pytest.approx(pixels.std((0, 1, 2)))
    assert [status for _, _, status, _ in server.log] == [200, 200]
    with pytest.raises(UserError, match="mean has 1 values, the images have 3 channels"):
        prepared("cifar10", mean=[0.5])


def test_cifar10_at_another_size(cifar10: dict[str, np.ndarray]) -> None:
    arrays, meta = prepared("cifar10", image_size=16)
    assert meta["image_size"] == 16
    smaller = Image.fromarray(cifar10["train_images"][7]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(arrays["train_images"][7], np.asarray(smaller))


def test_mirror_of_params_and_of_the_environment(
    server: Server, cifar10: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mirror" / "cifar10"
    folder.mkdir(parents=True)
    (folder / "cifar-10-python.tar.gz").write_bytes(server.contents["cifar-10-python.tar.gz"])
    same(prepared("cifar10", mirror="mirror")[0], cifar10)
    assert server.log == []
    server.contents["copies/cifar-10-python.tar.gz"] = server.contents.pop("cifar-10-python.tar.gz")
    monkeypatch.setenv("NORMBENCH_MIRROR", f"{server.address}copies")
    monkeypatch.setenv("NORMBENCH_DOWNLOADS", str(tmp_path / "elsewhere"))
    same(prepared("cifar10")[0], cifar10)
    assert [(name, status) for name, _, status, _ in server.log] == [("copies/cifar-10-python.tar.gz", 200)]
    assert (tmp_path / "elsewhere/cifar10/cifar-10-python.tar.gz").is_file()


def test_nothing_is_unpickled_or_written_outside(
    server: Server, cifar10: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    class Harm:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "unpickled",)

    name = "cifar-10-python.tar.gz"
    server.contents[name] = tar({"cifar-10-batches-py/data_batch_1": pickle.dumps(Harm())})
    with pytest.raises(UserError, match="another file"):
        prepared("cifar10")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(server.contents[name]))  # were the archive's md5 forged
    with pytest.raises(RuntimeError):
        prepared("cifar10")
    outside = {"../../../../outside": b"x", str(tmp_path / "outside"): b"x"}
    for path, content in outside.items():
        server.contents[name] = tar({path: content})
        monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(server.contents[name]))
        with pytest.raises((tarfile.TarError, RuntimeError)):
            prepared("cifar10")
    assert not list(tmp_path.rglob("unpickled"))
    assert not list(tmp_path.rglob("outside"))
    assert not list(tmp_path.parent.glob("outside"))
    assert list(Path("build/data").iterdir()) == []


def test_svhn(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.io
    from torchvision import datasets

    listed, images = {}, {"train": picture(20, 32, 3), "test": picture(10, 32, 3, seed=1)}
    for split, array in images.items():
        stream, name = io.BytesIO(), f"{split}_32x32.mat"
        stored = np.arange(len(array)) % 10 + 1  # 1..10, where 10 is the digit 0
        scipy.io.savemat(stream, {"X": array.transpose(1, 2, 3, 0), "y": stored[:, None].astype(np.uint8)})
        server.contents[name] = stream.getvalue()
        listed[split] = [f"{server.address}{name}", name, md5(server.contents[name])]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    arrays, meta = prepared("svhn")
    labels = (np.arange(20) + 1) % 10
    same(
        arrays,
        {"train_images": images["train"], "train_labels": labels}
        | {"test_images": images["test"], "test_labels": labels[:10]},
    )
    assert meta["class_names"] == list("0123456789")
    assert len(server.log) == 2


def test_stl10(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    images = {"train": picture(10, 96, 3), "test": picture(20, 96, 3, seed=1)}
    contents = {"unlabeled_X.bin": b"", "class_names.txt": "\n".join(f"thing {n}" for n in range(10)).encode()}
    for split, array in images.items():
        contents[f"{split}_X.bin"] = array.transpose(0, 3, 2, 1).tobytes()  # planes, each column by column
        contents[f"{split}_y.bin"] = bytes(n % 10 + 1 for n in range(len(array)))
    archive = tar({f"stl10_binary/{name}": content for name, content in contents.items()})
    server.contents["stl10_binary.tar.gz"] = archive
    sums = {name: md5(content) for name, content in contents.items()}
    kind = datasets.STL10
    monkeypatch.setattr(kind, "url", f"{server.address}stl10_binary.tar.gz")
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))
    monkeypatch.setattr(kind, "train_list", [[n, sums[n]] for n in ("train_X.bin", "train_y.bin", "unlabeled_X.bin")])
    monkeypatch.setattr(kind, "test_list", [[n, sums[n]] for n in ("test_X.bin", "test_y.bin")])
    arrays, meta = prepared("stl10")
    same(
        arrays,
        {"train_images": images["train"], "train_labels": np.arange(10)}
        | {"test_images": images["test"], "test_labels": np.arange(20) % 10},
    )
    assert meta["class_names"][9] == "thing 9"


def test_digits() -> None:
    from sklearn.datasets import load_digits

    arrays, meta = prepared("digits")
    assert (meta["train"] + meta["test"], meta["classes"], meta["channels"], meta["image_size"]) == (1797, 10, 1, 16)
    assert meta["fingerprint"] == by_hand(arrays) == DIGITS_FINGERPRINT
    assert prepared("digits")[1] == meta
    every = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(arrays["test_labels"]), np.round(every / 5))

    native, meta = prepared("digits", image_size=8)
    assert meta["origin"].startswith("scikit-learn ")
    assert meta["sha256"] is None
    pixels = np.concatenate([native["train_images"], native["test_images"]])[..., 0]
    stored = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(p.tobytes() for p in pixels) == sorted(p.tobytes() for p in stored)
    larger = Image.fromarray(native["train_images"][5, ..., 0]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(arrays["train_images"][5, ..., 0], np.asarray(larger))


def test_the_fingerprint_tells_one_pixel_one_label_and_a_shape() -> None:
    arrays = {"train_images": picture(4, 8, 1), "train_labels": np.array([0, 1, 0, 1])}
    arrays |= {"test_images": picture(2, 8, 1, seed=1), "test_labels": np.array([0, 1])}
    seen = {sources.fingerprint(arrays)}
    for name in sources.ARRAYS:
        changed = arrays[name].copy()
        changed.flat[-1] ^= 1
        seen.add(sources.fingerprint(arrays | {name: changed}))
    seen.add(sources.fingerprint(arrays | {"train_images": arrays["train_images"].reshape(4, 4, 16, 1)}))
    assert len(seen) == 6
    assert (
        sources.fingerprint({name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays.items()})
        in seen
    )


def test_large_sets_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch, own_npz: dict[str, np.ndarray]) -> None:
    whole = prepared("npz", **write_npz(own_npz))
    monkeypatch.setattr(sources, "BATCH", 7)
    pieces = prepared("npz", **write_npz(own_npz))
    assert whole[1] == pieces[1]


# ---------------------------------------------------------------------------------------------------- npz


@pytest.fixture
def own_npz() -> dict[str, np.ndarray]:
    arrays = {"train_images": picture(30, 12, 3), "train_labels": np.arange(30, dtype=np.int16) % 3}
    return arrays | {"test_images": picture(9, 12, 3, seed=1), "test_labels": np.arange(9, dtype=np.uint8) % 3}


def write_npz(arrays: dict[str, Any]) -> dict[str, str]:
    np.savez("own.npz", **arrays)
    return {"path": "own.npz", "sha256": files.sha256("own.npz")}


def test_npz(own_npz: dict[str, np.ndarray]) -> None:
    given = write_npz(own_npz)
    arrays, meta = prepared("npz", **given)
    same(arrays, own_npz)
    assert (meta["classes"], meta["class_names"], meta["origin"], meta["sha256"]) == (
        3,
        None,
        "own.npz",
        given["sha256"],
    )
    arrays, meta = prepared("npz", image_size=6, **given)
    assert arrays["test_images"].shape == (9, 6, 6, 3)
    grey = {name: array[..., 0] if array.ndim == 4 else array for name, array in own_npz.items()}
    arrays, meta = prepared("npz", **write_npz(grey))
    assert meta["channels"] == 1
    np.testing.assert_array_equal(arrays["train_images"][..., 0], grey["train_images"])


def test_npz_needs_its_sha256(own_npz: dict[str, np.ndarray]) -> None:
    given = write_npz(own_npz)
    with pytest.raises(UserError, match=f"own.npz: its sha256 is missing; .*sha256: {given['sha256']}$"):
        prepared("npz", path="own.npz")
    with pytest.raises(UserError, match=f"own.npz: sha256 is {given['sha256']}, params.yaml says {'0' * 64}$"):
        prepared("npz", path="own.npz", sha256="0" * 64)
    with pytest.raises(UserError, match=r"gone\.npz: no such file"):
        prepared("npz", path="gone.npz", sha256="0" * 64)
    assert list(Path("build/data").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": None}, "no array 'test_labels' among train_images, train_labels, test_images$"),
        (
            {"train_images": np.zeros((30, 12, 12, 3), np.float32)},
            r"train_images are float32, uint8 \(0..255\) is needed",
        ),
        ({"train_images": picture(30, 12, 4)}, "train_images are 30 x 12 x 12 x 4; N x H x W x C is needed"),
        ({"test_images": picture(9, 12, 3)[:, :8]}, "test_images are 9 x 8 x 12 x 3; .* H = W"),
        ({"test_images": picture(9, 10, 3)}, "train_images are 12 x 12 x 3, test_images are 10 x 10 x 3"),
        ({"train_images": np.zeros((30, 144), np.uint8)}, "train_images are 30 x 144;"),
        ({"train_images": picture(0, 12, 3), "train_labels": np.arange(0)}, "train_images are 0 x 12 x 12 x 3;"),
        ({"train_labels": np.zeros(30)}, "train_labels are float64, integers are needed"),
        ({"train_labels": np.arange(29) % 3}, "train_labels are 29 for 30 train_images"),
        ({"train_labels": np.eye(30, 3, dtype=np.int64)}, "train_labels are 30 x 3 for 30 train_images"),
        ({"test_labels": np.arange(9) - 1}, "test_labels have -1; labels count from 0"),
        ({"test_labels": np.full(9, 2**63 + 1, np.uint64)}, "test_labels have -9223372036854775807;"),
        ({"train_labels": np.arange(30) % 3 + 1}, "train_labels go up to 3 without any 0; labels count from 0"),
        ({"test_labels": np.arange(9) % 4}, "test_labels have 3, the largest of train_labels is 2"),
        ({"train_labels": np.array([None] * 30)}, "not an .npz of plain arrays: Object arrays cannot be loaded"),
        ({"train_images": np.full((30, 12, 12, 3), 7, np.uint8)}, "one value only"),
    ],
)
def test_npz_with_wrong_arrays(own_npz: dict[str, np.ndarray], change: dict[str, Any], message: str) -> None:
    arrays = {name: array for name, array in (own_npz | change).items() if array is not None}
    with pytest.raises(UserError, match=message) as caught:
        prepared("npz", **write_npz(arrays))
    assert str(caught.value).startswith("dataset 'mine'")
    assert "\n" not in str(caught.value)


def test_npz_that_is_none(own_npz: dict[str, np.ndarray]) -> None:
    np.save("array.npy", np.zeros(3))
    Path("text.npz").write_text("hello")
    write_npz(own_npz)
    content = Path("own.npz").read_bytes()
    Path("cut.npz").write_bytes(content[: len(content) // 2])
    Path("pickle.npz").write_bytes(pickle.dumps([1]))
    for name in ("array.npy", "text.npz", "cut.npz", "pickle.npz"):
        with pytest.raises(UserError, match=f"{name}: (not an .npz of plain arrays|a single array)"):
            prepared("npz", path=name, sha256=files.sha256(name))


# ---------------------------------------------------------------------------------------------------- image folders


def image(path: str, colour: tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folders() -> str:
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                image(f"pets/{split}/{name}/{index}.png", (10 * index, 100 * label, 50 + index))
    return "pets"


def test_imagefolder(folders: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image("pets/train/dog/more/3.bmp", (77, 0, 0))  # at any depth
    Path("pets/train/dog/._0.png").write_bytes(b"what some systems leave beside an image")
    Path("pets/train/dog/boxes.txt").write_text("no image")
    arrays, meta = prepared("imagefolder", path=folders, image_size=8)
    assert arrays["train_labels"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert arrays["test_labels"].tolist() == [0, 0, 1, 1]
    assert arrays["train_images"][:, 3, 3, 0].tolist() == [0, 10, 20, 0, 10, 20, 77]
    assert arrays["test_images"][2, 0, 0].tolist() == [0, 100, 50]
    assert meta["class_names"] == ["cat", "dog"]
    assert meta["origin"] == "pets (train, val)"
    assert meta["sha256"] is None
    assert meta["fingerprint"] == by_hand(arrays)
    monkeypatch.setattr(sources, "BATCH", 2)  # as a set larger than the memory is read
    Path("pets/val").rename("pets/test")
    again = prepared("imagefolder", path=folders, image_size=8)[1]
    assert again == meta | {"origin": "pets (train, test)"}


def test_imagefolder_resizes_and_cuts_the_middle(folders: str) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, :20], wide[:, 20:40], wide[:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    Image.fromarray(wide).save("pets/train/cat/0.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save("pets/train/cat/1.png")
    Image.fromarray(wide[..., 1]).save("pets/train/cat/2.png")  # grey
    arrays, _ = prepared("imagefolder", path=folders, image_size=10)
    for index in (0, 1):
        assert (arrays["train_images"][index, 2:8, 2:8] == (0, 255, 0)).all()
    assert (arrays["train_images"][2, 2:8, 2:8] == 255).all()


def test_imagefolder_laid_out_as_tiny_imagenet() -> None:
    lines = []
    for label, name in enumerate(("n01443537", "n01629819")):
        for index in range(2):
            image(f"tiny/train/{name}/images/{name}_{index}.JPEG", (200 * label, 30 * index, 90 * label), (64, 64))
            lines.append(f"val_{2 * index + label}.JPEG\t{name}\t0\t0\t62\t62")
            image(f"tiny/val/images/val_{2 * index + label}.JPEG", (200 * label, 0, 90), (64, 64))
        Path(f"tiny/train/{name}/{name}_boxes.txt").write_text("")
    image("tiny/test/images/test_0.JPEG", (0, 0, 0))
    Path("tiny/val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    arrays, meta = prepared("imagefolder", path="tiny", image_size=32)
    assert arrays["train_labels"].tolist() == arrays["test_labels"].tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(arrays["test_images"][:, 5, 5, 0], [0, 0, 200, 200], atol=3)
    assert meta["classes"] == 2
    Path("tiny/val/val_annotations.txt").write_text("val_0.JPEG\tn01443538\t0\t0\t62\t62\n")
    with pytest.raises(UserError, match="line 1: no class 'n01443538' in train; did you mean 'n01443537'"):
        prepared("imagefolder", path="tiny", image_size=32)
    Path("tiny/val/val_annotations.txt").write_text("val_7.JPEG\tn01443537\t0\t0\t62\t62\n")
    with pytest.raises(UserError, match=r"val_7\.JPEG: not a readable image: No such file"):
        prepared("imagefolder", path="tiny", image_size=32)


def test_imagefolder_errors(folders: str) -> None:
    def refused(message: str, **given: Any) -> None:
        with pytest.raises(UserError, match=message) as caught:
            prepared("imagefolder", **({"path": folders, "image_size": 8} | given))
        assert "\n" not in str(caught.value)
        assert list(Path("build/data").iterdir()) == []

    refused("needs `image_size`", image_size=None)
    refused("elsewhere/train: no such folder", path="elsewhere")
    Path("pets/val/cat/1.png").write_bytes(b"not an image")
    refused("pets/val/cat/1.png: not an image$")
    content = Path("pets/train/dog/0.png").read_bytes()
    Path("pets/val/cat/1.png").write_bytes(content[: len(content) // 2])
    refused("pets/val/cat/1.png: not a readable image: ")
    for index in (0, 1):
        Path(f"pets/val/cat/{index}.png").unlink()
    refused("pets/val/cat: no image in it")
    Path("pets/val/cat").rename("pets/val/bird")
    refused(r"pets/train: class 'bird' is missing \(2 differ between train and val\)")
    Path("pets/val").rename("pets/validation")
    refused("pets/test: no such folder")


# ---------------------------------------------------------------------------------------------------- the whole stage


def stage(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.download", *arguments] if not code else [sys.executable, "-c", code]
    return subprocess.run(command, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True)


def test_the_stage_ends_in_words(own_npz: dict[str, np.ndarray]) -> None:
    files.write_json("build/resolved/datasets/mine.json", spec("npz", path="own.npz", sha256="0" * 64))
    done = stage("--dataset", "mine")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert done.stderr == "dataset 'mine': own.npz: no such file\n"
    done = stage("--dataset", "mime")
    assert done.returncode == 1
    assert "mime.json: no such dataset; did you mean 'mine'?" in done.stderr


def test_torch_is_loaded_only_where_it_is_used(folders: str, own_npz: dict[str, np.ndarray]) -> None:
    specs = [spec("npz", **write_npz(own_npz)), spec("imagefolder", path=folders, image_size=8), spec("digits")]
    code = (
        "import json, sys; from pathlib import Path; from normbench.data import sources\n"
        f"for number, spec in enumerate(json.loads({json.dumps(specs)!r})):\n"
        "    Path(str(number)).mkdir(); sources.prepare(spec, Path(str(number)))\n"
        "print(sorted({'torch', 'torchvision'} & set(sys.modules)))"
    )
    done = stage(code=code)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "unpack.py").is_file(), reason="no MNIST beside the project")
def test_the_real_mnist(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SHARED / "data" / "unpack.py", "mnist", "--out", tmp_path], check=True)
    arrays, meta = prepared("npz", path="mnist.npz", sha256=files.sha256("mnist.npz"))
    assert (meta["train"], meta["test"], meta["classes"], meta["channels"]) == (60_000, 10_000, 10, 1)
    assert meta["mean"] == pytest.approx([0.1307], abs=5e-5)
    assert meta["std"] == pytest.approx([0.3081], abs=5e-5)
    assert np.bincount(arrays["train_labels"])[:2].tolist() == [5923, 6742]
    assert meta["fingerprint"] == by_hand(arrays)
