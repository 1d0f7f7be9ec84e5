"""Image files in folders: in both layouts, resized and cut, and refused in one line that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.data.sources import imagefolder
from normbench.system.errors import UserError
from tests.support.prepared import by_hand, image, pets, prepared

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def folders() -> str:
    return pets()


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
    monkeypatch.setattr(imagefolder, "BATCH", 2)  # as a set larger than the memory is read
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
