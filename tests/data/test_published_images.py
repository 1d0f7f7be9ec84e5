"""Published corruptions in image files: found by class and file name, and read as the images of the dataset."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normbench.suite import corrupt as stage
from normbench.system import files, layout
from normbench.system.errors import UserError
from tests.support.prepared import image, own_arrays, pets, prepared, write_npz

pytestmark = pytest.mark.usefixtures("own_folders")

TEST = ("cat/0", "cat/1", "dog/0", "dog/1")


def colour(name: str, severity: int, file: str) -> tuple[int, int, int]:
    return (len(name) * 5, 40 * severity, 20 + 50 * TEST.index(file))


@pytest.fixture
def published() -> Path:
    """Files as those of ImageNet-C, of other images than the test images, for the prepared dataset `mine`."""
    prepared("imagefolder", path=pets(), image_size=16)
    for name in ("fog", "frost"):
        for severity in (1, 2, 3, 4, 5):
            for file in TEST:
                image(f"pets-C/{name}/{severity}/{file}.png", colour(name, severity, file), (24, 24))
    return Path("pets-C")


def corrupted(names: list[str], severities: list[int]) -> dict[str, np.ndarray]:
    wanted = {"names": names, "severities": severities, "seed": 0, "engine": "normbench", "constants": "auto"}
    files.write_json(layout.RESOLVED / "corruptions.json", wanted | {"source": "pets-C"})
    stage.corrupt("mine")
    folder = layout.CORRUPTED / "mine"
    assert np.load(folder / "labels.npy").tolist() == [0, 0, 1, 1] * len(severities)
    return {name: np.load(folder / f"{name}.npy") for name in names}


def check(found: dict[str, np.ndarray], severities: list[int]) -> None:
    for name, images in found.items():
        assert images.shape == (len(severities) * 4, 16, 16, 3)
        colours = [colour(name, severity, file) for severity in severities for file in TEST]
        np.testing.assert_array_equal(images, np.broadcast_to(np.array(colours)[:, None, None], images.shape))


def test_each_test_image_has_its_own(published: Path) -> None:
    image("pets-C/fog/2/cat/more.png", (1, 2, 3))
    image("pets-C/fog/2/bird/0.png", (1, 2, 3))
    check(corrupted(["fog", "frost"], [2, 5]), [2, 5])
    meta = files.read_json(layout.CORRUPTED / "mine/meta.json")
    assert (meta["published"], meta["engine"], meta["names"], meta["severities"]) == (
        "pets-C",
        None,
        ["fog", "frost"],
        [2, 5],
    )


def test_one_folder_deeper_as_the_archives_unpack(published: Path) -> None:
    Path("pets-C/weather").mkdir()
    for name in ("fog", "frost"):
        Path(f"pets-C/{name}").rename(f"pets-C/weather/{name}")
    check(corrupted(["frost"], [1]), [1])


def test_the_ending_may_be_another(published: Path) -> None:
    for path in sorted(published.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    check(corrupted(["fog"], [3]), [3])


def test_they_are_resized_and_cropped_as_the_dataset(published: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 28, 3), np.uint8)
    Image.fromarray(picture).save("pets-C/fog/1/dog/0.png")
    found = corrupted(["fog"], [1])["fog"][2]
    resized = Image.fromarray(picture).resize((16, 23), Image.Resampling.BILINEAR).crop((0, 3, 16, 19))
    np.testing.assert_array_equal(found, np.asarray(resized))


def test_images_as_in_tiny_imagenet_are_taken_as_they_are(published: Path) -> None:
    """A published image of the size of the dataset is not resampled."""
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save("pets-C/fog/1/dog/0.png")
    np.testing.assert_array_equal(corrupted(["fog"], [1])["fog"][2], picture)


@pytest.mark.parametrize("background", ["white", "black"])
def test_they_are_read_as_those_of_the_dataset(
    background: str, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Upright, and with the background of the dataset; what was changed is said."""
    prepared("imagefolder", path="pets", image_size=16, background=background)
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[:8, :, 1] = picture[:8, :, 3] = 255  # green above nothing
    exif = Image.Exif()
    exif[274] = 3  # upside down
    Image.fromarray(picture).save("pets-C/fog/1/dog/0.png", exif=exif)
    capsys.readouterr()
    found = corrupted(["fog"], [1])["fog"][2]
    below = 255 if background == "white" else 0
    assert (found[:8] == below).all()
    assert (found[8:] == (0, 255, 0)).all()
    line = f"mine: pets-C: transparent pixels, shown on {background}: 1 images (fog/1/dog/0.png)\n"
    assert capsys.readouterr().out.count(line) == 1


def test_what_lies_beside_them_is_not_taken_for_them(published: Path) -> None:
    place = published / "fog/3/cat"
    for name in ("0.txt", ".0.png", ".ipynb_checkpoints/0.png", "Thumbs.db"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("no image")
    (place / "0.png").rename(place / "0.jpg")
    (place / "more").mkdir()
    (place / "1.png").rename(place / "more/1.png")
    check(corrupted(["fog"], [3]), [3])
    shutil.copy(place / "more/1.png", place / "1.png")
    with pytest.raises(UserError, match=r"pets-C/fog/3: cat/1\.png and cat/more/1\.png could each be"):
        corrupted(["fog"], [3])


def test_names_count_in_one_unicode_form() -> None:
    for index, form in enumerate(("caf\u00e9", "cafe\u0301")):
        image(f"pets/{'val' if index else 'train'}/{form}/{form}.png", (9, 9, index))
    image("pets/train/dog/0.png", (1, 2, 3))
    prepared("imagefolder", path="pets", image_size=8)
    names = files.read_json(layout.DATA / "mine/test_files.json")["files"]
    assert names == ["caf\u00e9/caf\u00e9.png"]
    image("pets-C/fog/1/cafe\u0301/cafe\u0301.png", (7, 8, 9))
    wanted = {"names": ["fog"], "severities": [1], "seed": 0, "engine": "normbench", "constants": "auto"}
    files.write_json(layout.RESOLVED / "corruptions.json", wanted | {"source": "pets-C"})
    stage.corrupt("mine")
    found = np.load(layout.CORRUPTED / "mine/fog.npy")
    np.testing.assert_array_equal(found, np.broadcast_to(np.uint8([7, 8, 9]), (1, 8, 8, 3)))


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("severity", "pets-C/fog/5: no such folder; it needs one for each severity"),
        ("file", "pets-C/fog/5: 1 of 4 test images are not in it: dog/1.png; did you mean 'dog/0.png'?"),
        ("class", "pets-C/fog/5: 2 of 4 test images are not in it: dog/0.png, nor any of its class"),
        ("corruption", "pets-C: no folder snow in it or one level deeper; `names` chooses the corruptions"),
        ("image", "pets-C/fog/5/cat/0.png: not an image"),
        ("ambiguous", "pets-C/fog/5: cat/0.bmp and cat/0.jpg could each be cat/0.png"),
        ("twice", "mine: two test images are called cat/0.png, so pets-C does not tell them apart"),
        ("arrays", "pets-C: its image files belong to test images by class and file name, and those of mine have none"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(published: Path, fault: str, line: str) -> None:
    place = published / "fog/5"
    match fault:
        case "severity":
            shutil.rmtree(place)
        case "file":
            (place / "dog/1.png").unlink()
        case "class":
            shutil.rmtree(place / "dog")
        case "image":
            (place / "cat/0.png").write_text("no image")
        case "ambiguous":
            (place / "cat/0.png").rename(place / "cat/0.jpg")
            shutil.copy(place / "cat/1.png", place / "cat/0.bmp")
        case "twice":
            image("pets/val/cat/more/0.png", (1, 2, 3))
            prepared("imagefolder", path="pets", image_size=16)
        case "arrays":
            prepared("npz", **write_npz(own_arrays()))
    with pytest.raises(UserError) as caught:
        corrupted(["fog", "snow"] if fault == "corruption" else ["fog"], [1, 5])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert not layout.CORRUPTED.exists() or not list(layout.CORRUPTED.iterdir())
