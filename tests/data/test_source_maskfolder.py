"""Folders of images and masks, and Cityscapes: what is read, and what is refused in one line that names the file."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.data.arrays import MASKED
from normbench.data.masks import fitted
from normbench.data.pixels import IGNORED
from normbench.data.sources.cityscapes import CLASSES
from normbench.data.sources.maskfolder import MaskFolder
from normbench.suite.file import check_options
from normbench.system import files
from normbench.system.errors import UserError
from normbench.system.size import sides
from stages import download
from tests.support import masked
from tests.support.prepared import spec
from tests.support.shared import SHARED

pytestmark = pytest.mark.usefixtures("own_folders")

OPTIONS: dict[str, Any] = {"path": "boxes", "classes": masked.NAMES, "ignored": masked.VOID}
CAMVID = SHARED / "data/camvid_240x180.zip"


def prepared(source: str = "maskfolder", **given: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays and the meta.json of the download stage, after checks that hold for every such source."""
    files.write_json("build/resolved/datasets/mine.json", spec(source, **given))
    download.download("mine")
    folder = Path("build/data/mine")
    assert sorted(path.stem for path in folder.iterdir()) == sorted([*MASKED, "meta"])
    arrays = {name: np.load(folder / f"{name}.npy") for name in MASKED}
    meta = files.read_json(folder / "meta.json")
    for split in ("train", "test"):
        images, masks = arrays[f"{split}_images"], arrays[f"{split}_masks"]
        assert images.dtype == masks.dtype == np.uint8
        assert images.shape == (meta[split], *sides(meta["image_size"]), 3)
        assert masks.shape == images.shape[:3]
        assert set(np.unique(masks)) <= {*range(meta["classes"]), IGNORED}
    return arrays, meta


def image(path: str) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened)


def save(path: str, content: np.ndarray) -> None:
    Image.fromarray(content).save(path)


def test_a_folder() -> None:
    masked.write(Path("boxes"))
    arrays, meta = prepared(**OPTIONS)
    assert (meta["train"], meta["test"], meta["classes"], meta["image_size"]) == (8, 5, 3, [24, 32])
    assert meta["masks"] == {"ignored": IGNORED, "names": masked.NAMES}
    assert meta["origin"] == "boxes (train, test)"
    for number in range(8):
        stored = image(f"boxes/trainannot/{number:03}.png")
        assert np.array_equal(arrays["train_images"][number], image(f"boxes/train/{number:03}.png"))
        assert np.array_equal(arrays["train_masks"][number], np.where(stored == masked.VOID, IGNORED, stored))
    text = b""
    for name in MASKED:
        shape = "x".join(map(str, arrays[name].shape))
        text += f"{name} uint8 {shape}\n".encode() + arrays[name].tobytes()
    assert meta["fingerprint"] == hashlib.sha256(text).hexdigest()


def test_another_split_and_other_names() -> None:
    masked.write(Path("boxes"))
    for name in ("val", "labels"):
        Path("boxes", name).mkdir()
    save("boxes/val/a.png", image("boxes/test/001.png"))
    save("boxes/labels/a_mask.png", image("boxes/testannot/001.png"))
    Path("boxes/labels/b_mask.png").write_bytes(Path("boxes/labels/a_mask.png").read_bytes())
    save("boxes/train/007_mask.png", image("boxes/train/007.png"))
    save("boxes/trainannot/007_mask.png", image("boxes/trainannot/007.png"))
    changed = OPTIONS | {
        "test": "val",
        "test_masks": "labels",
        "mask_suffix": "_mask",
        "train": "val",
        "train_masks": "labels",
    }
    arrays, meta = prepared(**changed)
    assert (meta["train"], meta["test"], meta["origin"]) == (1, 1, "boxes (val, val)")
    assert np.array_equal(arrays["test_images"][0], image("boxes/test/001.png"))
    assert "left out: 1 masks without an image in labels (b_mask.png)" in meta["note"]


def test_masks_of_a_palette_and_of_16_bits() -> None:
    masked.write(Path("boxes"))
    values = image("boxes/trainannot/000.png")
    palette = Image.fromarray(values)
    palette.putpalette([10 * number % 256 for number in range(256) for _ in range(3)])
    palette.save("boxes/trainannot/000.png")
    assert Image.open("boxes/trainannot/000.png").mode == "P"
    save("boxes/trainannot/001.png", image("boxes/trainannot/001.png").astype(np.uint16))
    arrays, _ = prepared(**OPTIONS)
    assert np.array_equal(arrays["train_masks"][0] != IGNORED, values != masked.VOID)
    assert set(np.unique(arrays["train_masks"][1])) <= {0, 1, 2, IGNORED}


def test_resized_masks_have_no_class_between_two_others() -> None:
    """Image and mask are cut alike: the middle, of what just covers the size; a mask has the nearest pixel."""
    masked.write(Path("boxes"))
    arrays, meta = prepared(**OPTIONS, image_size=[12, 12])
    assert meta["image_size"] == 12
    stored = image("boxes/trainannot/000.png")
    nearest = np.asarray(Image.fromarray(stored).resize((16, 12), Image.Resampling.NEAREST))[:, 2:14]
    assert np.array_equal(arrays["train_masks"][0], np.where(nearest == masked.VOID, IGNORED, nearest))
    resized = Image.fromarray(image("boxes/train/000.png")).resize((16, 12), Image.Resampling.BILINEAR)
    assert np.array_equal(arrays["train_images"][0], np.asarray(resized)[:, 2:14])
    random = np.random.default_rng(0).integers(0, 9, (31, 17)).astype(np.uint8)
    assert np.array_equal(fitted(random, (31, 17)), random)
    assert set(np.unique(fitted(random, (50, 11)))) <= set(np.unique(random))


def broken(change: str) -> None:
    match change:
        case "size":
            save("boxes/trainannot/003.png", image("boxes/trainannot/003.png")[:20])
        case "class":
            values = image("boxes/trainannot/003.png").copy()
            values[4, 5] = 7
            save("boxes/trainannot/003.png", values)
        case "no mask":
            Path("boxes/trainannot/003.png").unlink()
        case "colours":
            save("boxes/trainannot/003.png", image("boxes/train/003.png"))
        case "no validation images":
            for path in Path("boxes/test").iterdir():
                path.unlink()
        case "no validation folder":
            Path("boxes/test").rename("boxes/tests")
        case "other size":
            for name in ("train", "trainannot"):
                save(f"boxes/{name}/003.png", image(f"boxes/{name}/003.png")[:20])
        case "damaged":
            Path("boxes/trainannot/003.png").write_bytes(Path("boxes/trainannot/003.png").read_bytes()[:60])
        case "turned":
            exif = Image.Exif()
            exif[0x112] = 6
            Image.fromarray(image("boxes/train/003.png")).save("boxes/train/003.png", exif=exif)
        case "nothing":
            Path("boxes").rename("elsewhere")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("size", "boxes/trainannot/003.png: 20 x 32 pixels, its image 003.png 24 x 32"),
        (
            "class",
            "boxes/trainannot/003.png: has the value 7 at row 4, column 5, which is no class; known are 0..3, 255",
        ),
        ("no mask", "boxes/train/003.png: has no mask, which would be 003.png in boxes/trainannot"),
        ("colours", "boxes/trainannot/003.png: has the mode RGB, but a mask has one number a pixel"),
        ("no validation images", "boxes/test: no image in it"),
        ("no validation folder", "boxes/test: no such folder; did you mean 'tests'?"),
        ("other size", "boxes/train/003.png: 20 x 32 pixels, others have 24 x 32: give the dataset an image_size"),
        ("damaged", "boxes/trainannot/003.png: not a readable image"),
        ("turned", "boxes/train/003.png: is turned by its metadata (EXIF), a mask is not: save it upright"),
        ("nothing", "boxes: no such folder"),
    ],
)
def test_what_cannot_be_read_is_named(change: str, line: str) -> None:
    masked.write(Path("boxes"))
    broken(change)
    with pytest.raises(UserError) as error:
        prepared(**OPTIONS)
    assert len(error.value.args) == 1
    assert str(error.value).startswith(f"dataset 'mine': {line}")
    assert not Path("build/data/mine").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"classes": ["one"]}, {"classes": "must have at least 2 items"}),
        ({"classes": [str(number) for number in range(256)]}, {"classes": "must have at most 255 items"}),
        ({"ignored": [3, -1]}, {"ignored": "must be greater than or equal to 0"}),
        ({"ignored": 70_000}, {"ignored": "must be less than 65536"}),
        ({"ignored": 11}, {}),
    ],
)
def test_options(options: dict[str, Any], found: dict[str, str]) -> None:
    said = dict(check_options(MaskFolder, OPTIONS | options))
    assert said.keys() == found.keys()
    assert all(said[key].endswith(text) for key, text in found.items())


def test_a_class_that_stands_there_twice() -> None:
    with pytest.raises(ValueError, match="classes: 'a' stands there twice"):
        MaskFolder(**(OPTIONS | {"classes": ["a", "b", "a"]}))


def cityscapes(root: Path) -> dict[str, np.ndarray]:
    """Writes four scenes in the folders of Cityscapes; returns the values of their masks by name."""
    random, found = np.random.default_rng(0), {}
    for split, city, number in [
        ("train", "aachen", 0),
        ("train", "aachen", 1),
        ("train", "bochum", 0),
        ("val", "lindau", 0),
    ]:
        name = f"{city}_{number:06}_000019"
        pixels, values = (
            random.integers(0, 256, (32, 64, 3), dtype=np.uint8),
            random.integers(0, 34, (32, 64), dtype=np.uint8),
        )
        values[0] = 255  # a licence plate, -1
        for folder, ending, content in (("leftImg8bit", "leftImg8bit", pixels), ("gtFine", "gtFine_labelIds", values)):
            (root / folder / split / city).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(root / folder / split / city / f"{name}_{ending}.png")
        (root / "gtFine" / split / city / f"{name}_gtFine_polygons.json").write_text("{}")
        found[name] = values
    return found


def test_cityscapes() -> None:
    values = cityscapes(Path("city"))
    arrays, meta = prepared("cityscapes", path="city", image_size=[32, 64])
    assert (meta["train"], meta["test"], meta["classes"]) == (3, 1, 19)
    assert meta["class_names"][:3] == ["road", "sidewalk", "building"]
    assert meta["class_names"][-3:] == ["train", "motorcycle", "bicycle"]
    found = [*arrays["train_masks"], *arrays["test_masks"]]
    expected = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12}
    expected |= {26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    assert list(CLASSES.values()) == list(expected)
    for mask, own in zip(found, values.values(), strict=True):
        assert np.array_equal(mask, np.vectorize(lambda value: expected.get(value, IGNORED))(own))


def test_cityscapes_that_is_not_whole() -> None:
    cityscapes(Path("city"))
    Path("city/gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(UserError, match=r"lindau_000000_000019_leftImg8bit\.png: has no mask: city/gtFine/val/lindau"):
        prepared("cityscapes", path="city", image_size=[32, 64])
    Path("city/leftImg8bit/val").rename("city/leftImg8bit/validation")
    with pytest.raises(
        UserError, match=r"city/leftImg8bit/val: no such folder; Cityscapes has leftImg8bit/\{train,val\}"
    ):
        prepared("cityscapes", path="city", image_size=[32, 64])


@pytest.mark.skipif(not CAMVID.exists(), reason="needs ../shared/data, the images of CamVid")
def test_camvid() -> None:
    with zipfile.ZipFile(CAMVID) as archive:
        archive.extractall()
    names = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
    arrays, meta = prepared(path="camvid", classes=names, ignored=11)
    assert (meta["train"], meta["test"], meta["image_size"], meta["classes"]) == (367, 233, [180, 240], 11)
    shares = np.bincount(arrays["train_masks"].ravel(), minlength=256) / arrays["train_masks"].size
    # Road and building are the most of these scenes, pole and bicyclist are rare; some pixels are void.
    assert shares[[1, 3]].min() > 0.2
    assert shares[[2, 10]].max() < 0.02
    assert 0.01 < shares[IGNORED] < 0.1
    assert shares[11:255].max() == 0
