"""Arrays of one's own in an .npz: taken as they are, or refused in one line that says what is wrong with them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
        ({"test_images": pictures(9, 12, 3)[:, :8]}, "test_images are 9 x 8 x 12 x 3; .* H = W"),
        ({"test_images": pictures(9, 10, 3)}, "train_images are 12 x 12 x 3, test_images are 10 x 10 x 3"),
        ({"train_images": np.zeros((30, 144), np.uint8)}, "train_images are 30 x 144;"),
        ({"train_images": pictures(0, 12, 3), "train_labels": np.arange(0)}, "train_images are 0 x 12 x 12 x 3;"),
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
