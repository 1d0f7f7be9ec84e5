"""Arrays of one's own in an .npz: taken as they are, or refused in one line that says what is wrong with them."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.system import files
from normbench.system.errors import UserError
from tests.support.prepared import by_hand, own_arrays, pictures, prepared, same, write_npz

SHARED = Path(__file__).resolve().parents[3] / "shared"
pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def own_npz() -> dict[str, np.ndarray]:
    return own_arrays()


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
        ({"train_images": pictures(30, 12, 4)}, "train_images are 30 x 12 x 12 x 4; N x H x W x C is needed"),
        ({"test_images": pictures(9, 12, 3)[:, :8]}, "train_images are 12 x 12 x 3, test_images are 8 x 12 x 3"),
        ({"train_images": pictures(30, 12, 3)[:, :3]}, "are 30 x 3 x 12 x 3: sides of at least 4 pixels are needed"),
        ({"train_images": pictures(30, 12, 4)}, r"images\[..., :3\] leaves it out"),
        ({"train_images": pictures(12, 12, 30).reshape(12, 12, 3, -1)}, r"comes first: images.transpose\(3, 0, 1, 2\)"),
        ({"train_images": np.full((30, 12, 12, 3), 0.5)}, r"for values in 0..1, \(255 \* images\).round\(\)"),
        ({"train_images": np.full((30, 12, 12, 3), 99.5)}, r"for values in 0..255, .*; they go up to 99.5$"),
        ({"train_images": np.full((30, 12, 12, 3), -1.5)}, "values from -1.5 to -1.5 are no levels: .* normalization"),
        ({"train_images": np.full((30, 12, 12, 3), np.nan)}, "train_images are float64, uint8 .*; they have nan$"),
        ({"train_images": np.full((30, 12, 12, 3), 2, bool)}, "train_images are bool, uint8 .* makes True white$"),
        ({"train_images": np.full((30, 12, 12, 3), 257, np.uint16)}, "are uint16 with 257, uint8 .* images // 257$"),
        ({"train_images": np.full((30, 12, 12, 3), -1)}, "train_images are int64 with -1, uint8 .* is needed$"),
        ({"train_images": np.full((30, 12, 12, 3), 1j)}, "train_images are complex128, uint8 .* is needed$"),
        ({"test_images": pictures(9, 10, 3)}, "train_images are 12 x 12 x 3, test_images are 10 x 10 x 3"),
        ({"train_images": np.zeros((30, 144), np.uint8)}, "train_images are 30 x 144;"),
        (
            {"train_images": pictures(0, 12, 3), "train_labels": np.arange(0)},
            "train_images are 0 x 12 x 12 x 3: there is no image in it$",
        ),
        ({"train_labels": np.arange(30) / 2}, "train_labels have 0.5; whole numbers are needed"),
        ({"train_labels": np.full(30, np.nan)}, "train_labels have nan; whole numbers are needed"),
        ({"train_labels": np.full(30, np.inf)}, "train_labels have inf; whole numbers are needed"),
        ({"train_labels": np.array([*"abc"] * 10)}, "train_labels are <U1, integers are needed; np.unique"),
        ({"train_labels": np.array(3)}, "train_labels are a single number for 30 train_images"),
        ({"test_labels": np.arange(9) * 2**40}, "test_labels have 8796093022208, which is no number of a class;"),
        ({"test_labels": np.full(9, -1e300)}, r"test_labels have -1e\+300; labels count from 0$"),
        ({"train_images": pictures(30, 12, 3)[:, :, :0]}, "train_images are 30 x 12 x 0 x 3: sides of at least 4"),
        ({"test_labels": np.arange(0)}, "test_labels are 0 for 9 test_images"),
        (
            {"train_labels": np.eye(3)[np.arange(30) % 3], "test_labels": np.eye(4)[np.arange(9) % 3]},
            "train_labels have 3 columns, test_labels have 4",
        ),
        ({"train_labels": np.eye(3)[np.arange(30) % 3] * 2}, "row 0 has not a single 1 and else 0"),
        ({"train_labels": np.ones((30, 3))}, "row 0 has not a single 1 and else 0"),
        ({"train_labels": np.arange(29) % 3}, "train_labels are 29 for 30 train_images"),
        ({"train_labels": np.eye(30, 3, dtype=np.int64)}, "train_labels are 30 x 3: .* or one-hot rows; row 3 has"),
        ({"test_labels": np.arange(9) - 1}, "test_labels have -1; labels count from 0"),
        ({"test_labels": np.full(9, 2**63 + 1, np.uint64)}, "test_labels have 9223372036854775809, which"),
        (
            {"train_labels": np.arange(30) % 3 + 1},
            "go up to 3 without any 0; labels count from 0, no gaps: subtract 1$",
        ),
        ({"test_labels": np.arange(9) % 4}, "test_labels have 3, the largest of train_labels is 2"),
        (
            {"train_labels": np.array([None] * 30)},
            "own.npz: train_labels is an array of Python objects, which is never read",
        ),
        ({"train_images": np.full((30, 12, 12, 3), 7, np.uint8)}, "one value only"),
    ],
)
def test_npz_with_wrong_arrays(own_npz: dict[str, np.ndarray], change: dict[str, Any], message: str) -> None:
    arrays = {name: array for name, array in (own_npz | change).items() if array is not None}
    with pytest.raises(UserError, match=message) as caught:
        prepared("npz", **write_npz(arrays))
    assert str(caught.value).startswith("dataset 'mine'")
    assert "\n" not in str(caught.value)


# How a file begins, and what is said of it.
OTHERS = {
    "text": (b"hello", "not an .npz file$"),
    "nothing": (b"", "empty, not an .npz file$"),
    "page": (b"\xef\xbb\xbf \n<!DOCTYPE HTML><title>404</title>", "a web page, not an .npz file: the address .*"),
    "page of XHTML": (b"<?xml version='1.0'?><html>", "a web page, not an .npz file: the address .*"),
    "pickle": (pickle.dumps([1]), "a pickle, not an .npz file; it is never read, because it can run code, while .*"),
    "gzip": (b"\x1f\x8b\x08 ", "a gzip file, not an .npz file; unpack it first"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer, .*; `git lfs pull` fetches it"),
    "hdf5": (b"\x89HDF\r\n", "an HDF5 file, not an .npz file$"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_another_kind(kind: str) -> None:
    content, message = OTHERS[kind]
    Path("own.npz").write_bytes(content)
    with pytest.raises(UserError, match=f"^dataset 'mine': own.npz: {message}") as caught:
        prepared("npz", path="own.npz", sha256=files.sha256("own.npz"))
    assert "\n" not in str(caught.value)
    assert kind == "pickle" or "pickle" not in str(caught.value)


def test_an_npz_that_is_damaged(own_npz: dict[str, np.ndarray]) -> None:
    np.save("array.npy", np.zeros(3))
    write_npz(own_npz)
    content = Path("own.npz").read_bytes()
    Path("cut.npz").write_bytes(content[: len(content) // 2])
    Path("flipped.npz").write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    with zipfile.ZipFile("text.npz", "w") as archive:
        for name in own_npz:
            archive.writestr(name, "hello")
    np.savez("large.npz", **own_npz)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 10**3, 10**3, 3)}
    )
    with zipfile.ZipFile("large.npz", "a") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr("train_images.npy", header.getvalue())
    Path("folder.npz").mkdir()
    for name, message in (
        ("array.npy", "a single array .*, not an .npz file with train_images, train_labels, test_images, test_labels"),
        ("cut.npz", "a damaged or truncated zip file, not an .npz file"),
        ("flipped.npz", "train_images is damaged or truncated: Bad CRC-32 .*"),
        ("text.npz", r"train_images is no array \(.npy\) inside of the file"),
        ("large.npz", "train_images is larger than the memory"),
    ):
        with pytest.raises(UserError, match=f"^dataset 'mine': {name}: {message}$"):
            prepared("npz", path=name, sha256=files.sha256(name))
    with pytest.raises(UserError, match=r"^dataset 'mine': folder.npz: a folder, not an .npz file$"):
        prepared("npz", path="folder.npz", sha256="0" * 64)


FORMS = {
    "column of labels": lambda a: {f"{s}_labels": a[f"{s}_labels"][:, None] for s in SPLITS},
    "row of labels": lambda a: {f"{s}_labels": a[f"{s}_labels"][None] for s in SPLITS},
    "whole floats": lambda a: {f"{s}_labels": a[f"{s}_labels"].astype(np.float32) for s in SPLITS},
    "big-endian": lambda a: {f"{s}_labels": a[f"{s}_labels"].astype(">i8") for s in SPLITS},
    "uint64": lambda a: {f"{s}_labels": a[f"{s}_labels"].astype(np.uint64) for s in SPLITS},
    "one-hot": lambda a: {f"{s}_labels": np.eye(3, dtype=np.uint8)[a[f"{s}_labels"]] for s in SPLITS},
    "one-hot booleans": lambda a: {"train_labels": np.eye(3, dtype=bool)[a["train_labels"]]},
    "column-major": lambda a: {f"{s}_images": np.asfortranarray(a[f"{s}_images"]) for s in SPLITS},
    "channels first": lambda a: {f"{s}_images": a[f"{s}_images"].transpose(0, 3, 1, 2) for s in SPLITS},
    "channels first in one": lambda a: {"test_images": a["test_images"].transpose(0, 3, 1, 2)},
    "wide integers": lambda a: {f"{s}_images": a[f"{s}_images"].astype(">i4") for s in SPLITS},
}
SPLITS = ("train", "test")


@pytest.mark.parametrize("form", FORMS)
def test_what_has_one_reading_is_taken(own_npz: dict[str, np.ndarray], form: str) -> None:
    changed = FORMS[form](own_npz)
    arrays, meta = prepared("npz", **write_npz(own_npz | changed))
    same(arrays, own_npz)
    assert meta["fingerprint"] == by_hand(own_npz)


def test_two_classes_as_booleans(own_npz: dict[str, np.ndarray]) -> None:
    arrays, meta = prepared("npz", **write_npz(own_npz | {f"{s}_labels": own_npz[f"{s}_labels"] > 0 for s in SPLITS}))
    assert meta["classes"] == 2
    np.testing.assert_array_equal(arrays["train_labels"], own_npz["train_labels"] > 0)


def test_as_medmnist_has_them() -> None:
    """Grey images without a channel axis, labels as a column, and a third split, which is not used."""
    random = np.random.default_rng(0)
    given = {f"{s}_images": random.integers(0, 256, (n, 28, 28), np.uint8) for s, n in (("train", 20), ("test", 6))}
    given |= {f"{s}_labels": (np.arange(n) % 2)[:, None].astype(np.uint8) for s, n in (("train", 20), ("test", 6))}
    given |= {"val_images": given["test_images"], "val_labels": given["test_labels"]}
    arrays, meta = prepared("npz", **write_npz(given))
    assert (meta["channels"], meta["image_size"], meta["train"], meta["test"]) == (1, 28, 20, 6)
    np.testing.assert_array_equal(arrays["test_images"][..., 0], given["test_images"])
    assert arrays["test_labels"].tolist() == [0, 1] * 3


def test_grey_with_and_without_a_channel_axis(own_npz: dict[str, np.ndarray]) -> None:
    grey = {"train_images": own_npz["train_images"][..., 0], "test_images": own_npz["test_images"][..., :1]}
    arrays, _ = prepared("npz", **write_npz(own_npz | grey))
    np.testing.assert_array_equal(arrays["train_images"][..., 0], grey["train_images"])
    np.testing.assert_array_equal(arrays["test_images"], grey["test_images"])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_are_not_square(channels: int) -> None:
    given = own_arrays()
    given |= {name: array[:, :8, :, :channels] for name, array in given.items() if name.endswith("images")}
    arrays, meta = prepared("npz", **write_npz(given))
    assert meta["image_size"] == [8, 12]
    same(arrays, given)
    resized, meta = prepared("npz", image_size=[16, 8], **write_npz(given))
    assert meta["image_size"] == [16, 8]
    picture = Image.fromarray(given["test_images"][0].squeeze()).resize((8, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized["test_images"][0].squeeze(), np.asarray(picture))
    assert prepared("npz", image_size=[8, 8], **write_npz(given))[1]["image_size"] == 8


def test_one_class_and_one_image(own_npz: dict[str, np.ndarray]) -> None:
    one = {name: array[:1] for name, array in own_npz.items()}
    assert prepared("npz", **write_npz(one))[1]["classes"] == 1


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
