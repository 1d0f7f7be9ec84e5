"""The sources that torchvision lists, on small archives in the real formats, behind a server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.data import unpack
from normbench.data.sources.registry import source_class
from normbench.system.errors import UserError
from tests.support.archive_server import Server
from tests.support.prepared import by_hand, md5, pictures, prepared, same
from tests.support.shared import SHARED

pytestmark = pytest.mark.usefixtures("own_folders")


def idx(array: np.ndarray) -> bytes:
    """The IDX format of MNIST: 0, 0, type (8 for unsigned bytes), dimensions; each length big-endian; the bytes."""
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes()


def zipped(content: bytes) -> bytes:
    """By gzip, without the time: every process of the tests has the same bytes, which are in names of tests."""
    return gzip.compress(content, mtime=0)


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

    arrays = {"train_images": pictures(30, 28, 1), "train_labels": np.arange(30) % 10}
    arrays |= {"test_images": pictures(20, 28, 1, seed=1), "test_labels": np.arange(20) % 10}
    resources = []
    for split, stem in (("train", "train"), ("test", "t10k")):
        for kind, suffix in (("images", "images-idx3"), ("labels", "labels-idx1")):
            name, array = f"{stem}-{suffix}-ubyte.gz", arrays[f"{split}_{kind}"]
            server.contents[name] = zipped(idx(array[..., 0] if kind == "images" else array))
            resources.append((name, md5(server.contents[name])))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server.address}moved/", server.address])
    return arrays


@pytest.fixture
def cifar10(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A small CIFAR-10 on the server: two training batches of 20 and one test batch."""
    from torchvision import datasets

    arrays = {"train_images": pictures(40, 32, 3), "train_labels": np.arange(40) % 10}
    arrays |= {"test_images": pictures(20, 32, 3, seed=1), "test_labels": np.arange(20)[::-1] % 10}

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


def test_kmnist(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of MNIST, from one server, with its own names of classes."""
    from torchvision import datasets

    expected = {"train_images": pictures(20, 28, 1), "train_labels": np.arange(20) % 10}
    expected |= {"test_images": pictures(10, 28, 1, seed=1), "test_labels": np.arange(10)}
    resources = []
    for split, stem in (("train", "train"), ("test", "t10k")):
        for kind, suffix in (("images", "images-idx3"), ("labels", "labels-idx1")):
            name, array = f"{stem}-{suffix}-ubyte.gz", expected[f"{split}_{kind}"]
            server.contents[name] = zipped(idx(array[..., 0] if kind == "images" else array))
            resources.append((name, md5(server.contents[name])))
    assert [name for name, _ in datasets.KMNIST.resources] == [name for name, _ in resources]
    assert datasets.KMNIST.mirrors == ["http://codh.rois.ac.jp/kmnist/dataset/kmnist/"]
    monkeypatch.setattr(datasets.KMNIST, "resources", resources)
    monkeypatch.setattr(datasets.KMNIST, "mirrors", [server.address])
    arrays, meta = prepared("kmnist")
    same(arrays, expected)
    assert meta["class_names"] == ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]
    assert Path("downloads/kmnist/KMNIST/raw/t10k-labels-idx1-ubyte.gz").is_file()


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


class Harm:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member of an archive with fields that `tar` does not set."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


FOLDER = "cifar-10-batches-py"
NAMES = ("data_batch_1", "data_batch_2", "test_batch", "batches.meta")
GOOD = {name: pickle.dumps({"data": pictures(4, 32, 3).reshape(4, 3072), "labels": [0, 1, 2, 3]}, 2) for name in NAMES}
GOOD["batches.meta"] = pickle.dumps({"label_names": list("abcd")}, 2)


def cifar(**changed: Any) -> bytes:
    return tar({f"{FOLDER}/{name}": content for name, content in (GOOD | changed).items()})


def batch(**changed: Any) -> bytes:
    return pickle.dumps(pickle.loads(GOOD["test_batch"]) | changed, 2)


BROKEN: dict[str, tuple[bytes, str]] = {
    "no tar": (zipped(b"<html>log in</html>" * 99), "cifar-10-python.tar.gz: truncated, damaged or of another"),
    "no gzip": (b"<html>log in</html>", "cifar-10-python.tar.gz: truncated, damaged or of another form: Not a gzipped"),
    "empty": (b"", "cifar-10-python.tar.gz: truncated, damaged or of another form"),
    "truncated": (cifar()[:-3000], "cifar-10-python.tar.gz: truncated, damaged or of another form"),
    "a member is missing": (tar({f"{FOLDER}/{NAMES[0]}": b"x"}), "has no cifar-10-batches-py/batches.meta"),
    "a link": (
        tar_of(member(f"{FOLDER}/data_batch_1", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "cifar-10-python.tar.gz: cifar-10-batches-py/data_batch_1 is no plain file",
    ),
    "a hard link": (
        tar_of(member(f"{FOLDER}/data_batch_1", type=tarfile.LNKTYPE, linkname="../x")),
        "cifar-10-python.tar.gz: cifar-10-batches-py/data_batch_1 is no plain file",
    ),
    "a device": (
        tar_of(member(f"{FOLDER}/data_batch_1", type=tarfile.CHRTYPE)),
        "cifar-10-python.tar.gz: cifar-10-batches-py/data_batch_1 is no plain file",
    ),
    "names outside": (
        tar_of(member("../../../../outside", b"x"), member(f"{FOLDER}/../../outside", b"x")),
        "has no cifar-10-batches-py/batches.meta",
    ),
    "a bomb beside the members": (
        tar_of(member("zeros", bytes(3_000_000)), *(member(f"{FOLDER}/{n}", c) for n, c in GOOD.items())),
        "cifar-10-python.tar.gz: has more than 2.0 MB when it is decompressed",
    ),
    "a bomb": (cifar(data_batch_1=bytes(3_000_000)), "has more than 2.0 MB when it is decompressed"),
    "a bomb of empty members": (
        tar_of(*(member(f"{n}") for n in range(5000))),
        "cifar-10-python.tar.gz: has more than 2.0 MB when it is decompressed",
    ),
    "no pickle": (cifar(data_batch_1=b"text"), f"{FOLDER}/data_batch_1: not a pickle of plain arrays"),
    "a truncated pickle": (cifar(data_batch_1=GOOD["data_batch_1"][:-900]), "not a pickle of plain arrays"),
    "another value": (cifar(data_batch_1=pickle.dumps([1])), "data_batch_1: has no `data` of uint8 (N, 3072)"),
    "real numbers": (cifar(data_batch_1=batch(data=np.zeros((4, 3072)))), "has no `data` of uint8 (N, 3072)"),
    "another shape": (cifar(data_batch_1=batch(data=np.zeros((4, 9), np.uint8))), "has no `data` of uint8 (N, 3072)"),
    "other labels": (cifar(test_batch=batch(labels=[0, 1, 2])), "test_batch: has no `labels` with a whole number for"),
    "real labels": (cifar(test_batch=batch(labels=[0, 1, 2, 3.5])), "test_batch: has no `labels` with a whole number"),
    "no names": (cifar(**{"batches.meta": pickle.dumps({"x": 1})}), "batches.meta: has no list `label_names` of names"),
    "a huge array": (
        # `_reconstruct` of an array of 10**15 numbers, which is memory that no machine has
        cifar(data_batch_1=b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L1000000000000000L\ntS'd'\ntR."),
        "data_batch_1: ",
    ),
}  # fmt: skip


@pytest.fixture
def forged(server: Server, cifar10: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts an archive on the server, with its md5 where torchvision has it, as one who could forge md5 would."""
    from torchvision import datasets

    from normbench.data.sources.torchvision import Cifar10

    monkeypatch.setattr(Cifar10, "largest", 2_000_000)

    def put(content: bytes) -> None:
        server.contents["cifar-10-python.tar.gz"] = content
        monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(content))

    return put


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_archive_is_one_line(case: str, forged: Any, tmp_path: Path) -> None:
    content, line = BROKEN[case]
    forged(content)
    with pytest.raises(UserError) as caught:
        prepared("cifar10")
    text = str(caught.value)
    assert text.startswith("dataset 'mine': downloads/cifar10/cifar-10-python.tar.gz: ")
    assert line in text
    assert "\n" not in text
    assert not list(tmp_path.rglob("outside"))
    assert not list(tmp_path.parent.glob("outside"))
    assert list(Path("build/data").iterdir()) == []


def test_the_good_one_is_read(forged: Any) -> None:
    """The control of the test above."""
    forged(cifar())
    assert prepared("cifar10")[1]["train"] == 8


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_no_pickle_runs_anything(protocol: int, forged: Any, tmp_path: Path, server: Server) -> None:
    server.contents["cifar-10-python.tar.gz"] = tar({f"{FOLDER}/data_batch_1": b"x"})
    with pytest.raises(UserError, match="another file"):  # The md5 is looked at first.
        prepared("cifar10")
    harm = pickle.dumps({"data": Harm(tmp_path / "unpickled"), "labels": []}, protocol)
    for name in NAMES:
        forged(cifar(**{name: harm}))
        with pytest.raises(UserError, match=rf"{name}: not a pickle of plain arrays: it names "):
            prepared("cifar10")
    assert not list(tmp_path.rglob("unpickled"))


@pytest.mark.parametrize(
    "harm",
    [
        b"cos\nsystem\n(S'touch unpickled'\ntR.",
        b"(S'touch unpickled'\nios\nsystem\n.",  # INST
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ftouch unpickled\x85R.",  # STACK_GLOBAL
        b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
        b"cnumpy\nfromfile\n(S'/etc/passwd'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"c_codecs\nopen\n(S'/etc/passwd'\ntR.",
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"\x82\x01.",  # EXT1, of copyreg
        b"Pid\n.",  # PERSID
    ],
)
def test_names_in_pickles(harm: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="not a pickle of plain arrays: "):
        unpack.unpickle(harm)
    assert list(tmp_path.iterdir()) == []


def test_pickles_of_python_2(tmp_path: Path) -> None:
    """As the official batches are: protocol 2, byte strings for texts, and numpy's old names."""
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    content = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x06\x00\x01\x02\x03\x04\x05tbU\x06labels](K\x01K\x00eu."
    )
    held = unpack.unpickle(content)
    np.testing.assert_array_equal(held["data"], values)
    assert held["labels"] == [1, 0]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (zipped(idx(np.zeros((10, 28, 28), np.uint8)))[:-20], "truncated, damaged or of another form"),
        (zipped(idx(np.zeros((10, 28, 28), np.uint8))[:-1]), "should have 10 x 28 x 28 bytes"),
        (zipped(idx(np.zeros((10, 28, 28), np.uint8)) + b"x"), "and has 7841"),
        (zipped(b"\0\0\x08\x03"), "bytes after its head, and has"),
        (zipped(bytes([0, 0, 8, 255]) + b"\xff" * 1020), "bytes after its head, and has 0"),
        (zipped(bytes([0, 0, 13, 1, 0, 0, 0, 1]) + bytes(4)), "not in the IDX format with bytes"),
        (zipped(b""), "not in the IDX format with bytes"),
        (zipped(bytes(3_000_000)), "has more than 2.0 MB when it is decompressed"),
        (b"", "not in the IDX format with bytes"),
        (b"<html>", "truncated, damaged or of another form"),
    ],
)
def test_broken_idx_files(content: bytes, line: str, server: Server, mnist: Any, monkeypatch: Any) -> None:
    from torchvision import datasets

    from normbench.data.sources.torchvision import Mnist

    monkeypatch.setattr(Mnist, "largest", 2_000_000)
    name = "train-images-idx3-ubyte.gz"
    server.contents[name] = content
    listed = [(each, md5(content) if each == name else digest) for each, digest in datasets.MNIST.resources]
    monkeypatch.setattr(datasets.MNIST, "resources", listed)
    with pytest.raises(UserError) as caught:
        prepared("mnist")
    text = str(caught.value)
    assert text.startswith(f"dataset 'mine': downloads/mnist/MNIST/raw/{name}: ")
    assert line in text
    assert "\n" not in text


def test_what_is_downloaded_is_limited_by_the_published_size(server: Server, forged: Any, monkeypatch: Any) -> None:
    from normbench.data.sources.torchvision import Cifar10

    forged(cifar())
    monkeypatch.setattr(Cifar10, "sizes", {"cifar-10-python.tar.gz": 1000})
    with pytest.raises(UserError, match="has at most 1000"):
        prepared("cifar10")
    for kind in (source_class(name) for name in ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10")):
        from torchvision import datasets

        archives = kind().archives(getattr(datasets, kind.class_in_torchvision))
        assert all(archive.largest == kind.sizes[archive.name] for archive in archives)
        assert {archive.name for archive in archives} == set(kind.sizes)


@pytest.mark.parametrize(
    "content",
    [b"", b"text" * 99, b"MATLAB 5.0 MAT-file" + bytes(109) + b"\x00\x01IM" + b"\xff" * 99],
)
def test_broken_matlab_files(content: bytes) -> None:
    from normbench.data.sources.torchvision import Svhn

    with pytest.raises(ValueError, match="not a file of MATLAB with images"):
        Svhn().matlab(content)


def test_a_matlab_file_that_is_too_large_is_not_unpacked(monkeypatch: Any) -> None:
    import scipy.io

    from normbench.data.sources.torchvision import Svhn

    stream = io.BytesIO()
    scipy.io.savemat(stream, {"X": np.zeros((32, 32, 3, 9), np.uint8), "y": np.ones((9, 1), np.uint8)})
    assert Svhn().matlab(stream.getvalue())["X"].shape == (32, 32, 3, 9)
    monkeypatch.setattr(Svhn, "largest", 1000)
    monkeypatch.setattr(scipy.io, "loadmat", None)
    with pytest.raises(ValueError, match="needs arrays X and y of at most 1000 values"):
        Svhn().matlab(stream.getvalue())


def extract(archive: bytes, folder: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as file:
        file.extractall(folder, filter="data")


@pytest.mark.parametrize(
    ("folder", "mirror"),
    [
        ("downloads/cifar10", None),
        ("downloads", None),
        ("data", "data"),
        ("data", "data/cifar-10-batches-py"),
        ("data/cifar10", "data"),
        ("~/sets", "~/sets/"),
    ],
)
def test_cifar10_unpacked_by_hand(
    folder: str,
    mirror: str | None,
    server: Server,
    cifar10: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    packed = prepared("cifar10")[1]
    server.log.clear()
    shutil.rmtree("downloads")
    place = Path(folder).expanduser()
    extract(server.contents["cifar-10-python.tar.gz"], str(place))
    arrays, meta = prepared("cifar10", mirror=mirror)
    same(arrays, cifar10)
    assert meta["fingerprint"] == packed["fingerprint"]
    assert meta["class_names"] == packed["class_names"]
    assert meta["origin"] == f"{server.address}cifar-10-python.tar.gz, unpacked"
    assert server.log == []
    names = ("data_batch_1", "data_batch_2", "test_batch", "batches.meta")
    content = {name: (place / "cifar-10-batches-py" / name).read_bytes() for name in names}
    sums = "".join(f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in names)
    assert meta["sha256"] == hashlib.sha256(sums.encode()).hexdigest()
    assert "cifar-10-python.tar.gz is not needed" in capsys.readouterr().out


def test_cifar10_unpacked_by_hand_and_changed(
    server: Server, cifar10: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a missing file nor another one is taken, and nothing of it is unpickled."""
    archive = server.contents.pop("cifar-10-python.tar.gz")
    extract(archive, "downloads/cifar10")
    place = Path("downloads/cifar10/cifar-10-batches-py")
    (place / "data_batch_2").unlink()
    (place / "test_batch").write_bytes(pickle.dumps(Harm(tmp_path / "unpickled")))
    with pytest.raises(UserError, match=r"no copy of\n  cifar-10-python\.tar\.gz") as caught:
        prepared("cifar10")
    assert f"  - if you have the files unpacked, put them into {place}/ (data_batch_1, ...)" in str(caught.value)
    line = f"mine: {place / 'data_batch_2'}: not there (and 1 more); not used\n"
    assert line in capsys.readouterr().err
    (place / "data_batch_2").symlink_to("nowhere")
    server.contents["cifar-10-python.tar.gz"] = archive
    same(prepared("cifar10")[0], cifar10)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("place", ["downloads/mnist/MNIST/raw", "downloads/mnist", "downloads/mnist/raw", "set"])
def test_mnist_with_and_without_gz(
    place: str, server: Server, mnist: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from normbench.data.sources.torchvision import Mnist

    packed = {name: server.contents[name] for name in server.contents}
    plain = {name.removesuffix(".gz"): gzip.decompress(content) for name, content in packed.items()}
    monkeypatch.setattr(Mnist, "raw", {name: md5(content) for name, content in plain.items()})
    fingerprint = prepared("mnist")[1]["fingerprint"]
    shutil.rmtree("downloads")
    server.contents.clear()
    server.log.clear()
    folder = Path(place)
    folder.mkdir(parents=True)
    names = [*plain]
    (folder / names[0]).write_bytes(plain[names[0]])
    dotted = names[1].replace("-idx", ".idx")
    (folder / dotted).mkdir()
    (folder / dotted / dotted).write_bytes(plain[names[1]])  # as on Kaggle
    (folder / names[2].replace("-idx", ".idx")).write_bytes(plain[names[2]])
    if place != "set":
        Path("downloads/mnist/MNIST/raw").mkdir(parents=True, exist_ok=True)
        Path("downloads/mnist/MNIST/raw", f"{names[3]}.gz").write_bytes(packed[f"{names[3]}.gz"])
    else:
        (folder / names[3]).write_bytes(plain[names[3]])
    arrays, meta = prepared("mnist", mirror="set" if place == "set" else None)
    same(arrays, mnist)
    assert meta["fingerprint"] == fingerprint
    assert meta["origin"].endswith("/, unpacked")
    assert server.log == []
    (folder / names[0]).write_bytes(plain[names[0]][:-1] + b"x")
    with pytest.raises(UserError, match=r"no copy of\n  train-images-idx3-ubyte\.gz"):
        prepared("mnist", mirror="set" if place == "set" else None)


@pytest.mark.skipif(not (SHARED / "data/unpack.py").exists(), reason="needs ../shared/data, real images")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_official_files_of_mnist_have_the_checksums_that_are_noted(name: str, tmp_path: Path) -> None:
    """From the original images, which others have stored in another form."""
    from normbench.data.sources import registry

    unpacking = [sys.executable, str(SHARED / "data/unpack.py"), name, "--out", str(tmp_path)]
    subprocess.run(unpacking, check=True, capture_output=True)
    found = {}
    with np.load(tmp_path / f"{name}.npz") as stored:
        for split, stem in (("train", "train"), ("test", "t10k")):
            for kind, suffix in (("images", "images-idx3"), ("labels", "labels-idx1")):
                array = stored[f"{split}_{kind}"]
                array = array[..., 0] if array.ndim == 4 else array
                found[f"{stem}-{suffix}-ubyte"] = md5(idx(array))
    # Only the sources of this family have `raw`, which the type of all sources does not know.
    assert found == registry.source_class(name).raw  # type: ignore[attr-defined]


def test_svhn(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.io
    from torchvision import datasets

    listed, images = {}, {"train": pictures(20, 32, 3), "test": pictures(10, 32, 3, seed=1)}
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

    images = {"train": pictures(10, 96, 3), "test": pictures(20, 96, 3, seed=1)}
    contents = {"unlabeled_X.bin": b"", "class_names.txt": b""}
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
    shutil.rmtree("downloads")
    server.contents.clear()
    extract(archive, "downloads/stl10")
    for name in ("class_names.txt", "unlabeled_X.bin"):  # which nothing needs
        Path("downloads/stl10/stl10_binary", name).unlink()
    again = prepared("stl10")[1]
    assert again["fingerprint"] == meta["fingerprint"]
    assert again["class_names"] == meta["class_names"]
    assert meta["class_names"][9] == "truck"
