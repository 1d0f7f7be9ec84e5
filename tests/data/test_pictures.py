"""Image files of every mode, orientation and form of transparency, as a person sees them or refused by name.

The expected pixels are written down here or follow from the definition of the format; small PNG files of kinds that
Pillow does not write are put together from their chunks.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from normbench.data import pictures
from normbench.system.errors import UserError
from tests.support.shared import SHARED

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# Four quarters of 8 x 8 pixels: red, green above blue, white. Each orientation has its own arrangement of them.
QUARTERS = np.zeros((16, 16, 3), np.uint8)
QUARTERS[:8, :8], QUARTERS[:8, 8:], QUARTERS[8:, :8], QUARTERS[8:, 8:] = RED, GREEN, BLUE, WHITE


def save(picture: Image.Image | np.ndarray, name: str, **given: Any) -> Path:
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(name, **given)
    return Path(name)


def seen(path: Path, size: int = 16, background: str = "white") -> np.ndarray:
    found = pictures.read(path, size, background).pixels
    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    return found


def refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(str(path)) + ": " + message) as caught:
        pictures.read(path, 8)
    assert "\n" not in str(caught.value)


def png(name: str, depth: int, kind: int, rows: list[bytes], width: int, **chunks: bytes) -> Path:
    """A PNG put together by hand. kind: 0 grey, 2 RGB, 3 palette. rows: their packed samples."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    content += b"".join(chunk(key.encode(), value) for key, value in chunks.items())
    content += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    Path(name).write_bytes(content)
    return Path(name)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def exif(orientation: Any) -> bytes:
    """EXIF with one tag, in which the orientation is a short number."""
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


# How the file has to be stored for QUARTERS to be seen, by its definition in EXIF: where the 0th row and column lie.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "avif"])
def test_every_orientation_in_every_format_that_has_one(ending: str, orientation: int) -> None:
    wide = QUARTERS.repeat(2, axis=1)[:, 4:28]  # not square, so that sides are exchanged
    stored = np.ascontiguousarray(STORED[orientation](wide))
    given: dict[str, Any] = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}.get(ending, {})
    given |= {"tiffinfo": {0x0112: orientation}} if ending == "tif" else {"exif": exif(orientation)}
    path = save(stored, f"turned.{ending}", **given)
    found = seen(path).astype(int)
    assert abs(found[[3, 3, 12, 12], [2, 13, 2, 13]] - [RED, GREEN, BLUE, WHITE]).max() <= 40


def test_an_orientation_after_the_pixels_and_one_in_xmp() -> None:
    stored = np.ascontiguousarray(STORED[6](QUARTERS))
    content = save(stored, "late.png").read_bytes()
    tag = exif(6)[6:]
    late = struct.pack(">I", len(tag)) + b"eXIf" + tag + struct.pack(">I", zlib.crc32(b"eXIf" + tag))
    Path("late.png").write_bytes(content[:-12] + late + content[-12:])
    np.testing.assert_array_equal(seen(Path("late.png")), QUARTERS)
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    path = save(stored, "xmp.webp", lossless=True, xmp=xmp)
    np.testing.assert_array_equal(seen(path), QUARTERS)


@pytest.mark.parametrize(
    "damaged",
    [exif(0), exif(9), exif(6)[:-9], b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0none", exif(6)[:20]],
    ids=str,
)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")
@pytest.mark.filterwarnings("ignore:.*read:UserWarning")
def test_an_orientation_that_cannot_be_read_is_none(ending: str, damaged: bytes) -> None:
    path = save(QUARTERS, f"a.{ending}", exif=damaged)
    assert abs(seen(path).astype(int)[[2, 2], [2, 13]] - [RED, GREEN]).max() <= 60


def clear_at(alpha: np.ndarray, colour: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """RGBA of one colour with the given alpha; noise is hidden where it is 0."""
    pixels = np.random.default_rng(0).integers(0, 256, (*alpha.shape, 4), np.uint8)
    pixels[alpha > 0, :3] = colour
    pixels[..., 3] = alpha
    return Image.fromarray(pixels)


def test_transparency_lies_on_the_background_whatever_is_hidden_below() -> None:
    alpha = np.zeros((16, 16), np.uint8)
    alpha[4:12, 4:12], alpha[0, :] = 255, 128
    expected = np.full((16, 16, 3), 255)
    expected[4:12, 4:12], expected[0, :] = 0, 127
    for ending in ("png", "tif", "webp", "ico", "tga"):
        given: dict[str, Any] = {"webp": {"lossless": True, "exact": True}, "ico": {"sizes": [(16, 16)]}}
        path = save(clear_at(alpha), f"a.{ending}", **given.get(ending, {}))
        np.testing.assert_array_equal(seen(path), expected)
        assert pictures.read(path, 16).remarks == ("transparent pixels, shown on white",)
    black = seen(save(clear_at(alpha, WHITE), "b.png"), background="black")
    np.testing.assert_array_equal(black[..., 0], np.where(alpha == 0, 0, alpha))
    grey = save(clear_at(alpha).convert("LA"), "la.png")
    np.testing.assert_array_equal(seen(grey), expected)
    whole = save(clear_at(np.full((16, 16), 255, np.uint8), RED), "whole.png")
    assert pictures.read(whole, 16).remarks == ()
    assert (seen(whole) == RED).all()


def test_transparency_of_palettes_and_of_single_colours() -> None:
    halves = np.zeros((16, 16), np.uint8)
    halves[:, 8:] = 1
    palette = Image.fromarray(halves).convert("P")
    palette.putpalette([*RED, *BLUE])
    for index, name in ((0, "index.png"), (0, "index.gif"), (b"\0\xff", "bytes.png")):
        path = save(palette, name, transparency=index)
        assert (seen(path)[:, :8] == WHITE).all()
        assert (seen(path)[:, 8:] == BLUE).all()
    half = seen(save(palette, "half.png", transparency=b"\x80\xff"))
    np.testing.assert_array_equal(half[0, 0], [255, 127, 127])
    rgb = Image.fromarray(QUARTERS)
    path = save(rgb, "rgb.png", transparency=BLUE)
    assert (seen(path)[8:, :8] == WHITE).all()
    assert (seen(path)[:8] == QUARTERS[:8]).all()
    assert (seen(path, background="black")[8:, :8] == 0).all()


@pytest.mark.parametrize(
    ("depth", "levels", "clear", "expected"),
    [
        (1, [0, 1], 1, [0, 255]),
        (2, [0, 1, 2, 3], 1, [0, 255, 170, 255]),
        (4, [0, 5, 10, 15], 5, [0, 255, 170, 255]),
        (8, [0, 60, 61, 255], 60, [0, 255, 61, 255]),
        (16, [0, 25700, 25701, 65535], 25700, [0, 255, 100, 255]),
        (16, [0, 257 * 77, 32896, 65534], 3, [0, 77, 128, 255]),
    ],
)
def test_a_transparent_value_of_grey_in_the_depth_of_the_file(
    depth: int, levels: list[int], clear: int, expected: list[int]
) -> None:
    total = 0
    for level in levels * (16 // len(levels)):
        total = (total << depth) | level
    row = total.to_bytes(2 * depth, "big")
    path = png("grey.png", depth, 0, [row] * 16, 16, tRNS=struct.pack(">H", clear))
    np.testing.assert_array_equal(seen(path)[3, : len(levels), 1], expected)


def test_a_transparent_colour_of_16_bits() -> None:
    row = struct.pack(">6H", 65535, 0, 0, 0, 0, 65535) * 8
    path = png("rgb.png", 16, 2, [row] * 16, 16, tRNS=struct.pack(">3H", 65535, 0, 0))
    np.testing.assert_array_equal(seen(path)[0, :2], [WHITE, BLUE])


def test_grey_of_16_bits_is_scaled_and_pixels_without_a_range_are_refused() -> None:
    steps = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    for name in ("a.png", "a.tif", "a.jp2", "a.pgm"):
        path = save(steps, name)
        np.testing.assert_array_equal(seen(path)[..., 2], expected, name)
        assert pictures.read(path, 16).remarks == ("16 bits of grey, scaled to 8",)
    big_endian = Image.frombytes("I;16B", (16, 16), steps.astype(">u2").tobytes())
    np.testing.assert_array_equal(seen(save(big_endian, "big.tif"))[..., 0], expected)
    # Packed 12-bit samples, which Pillow neither writes nor scales.
    packed = int("".join(f"{value:012b}" for value in [0, 4095, 2048, 1365] * 4), 2).to_bytes(24, "big") * 16
    tags = [(256, 3, 16), (257, 3, 16), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 16)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in [*tags, (279, 4, len(packed))])
    header = b"II*\0" + struct.pack("<I", 8 + len(packed))
    Path("packed.tif").write_bytes(header + packed + struct.pack("<H", 9) + entries + bytes(4))
    np.testing.assert_array_equal(seen(Path("packed.tif"))[5, :4, 0], [0, 255, 128, 85])
    inverted = save(steps, "inverted.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(seen(inverted)[..., 0], 255 - expected)
    for kind in (np.float32, np.int32):
        refused(save(steps.astype(kind), f"{kind.__name__}.tif"), ".* pixels, and the file does not say which value")


def test_colour_spaces() -> None:
    rgb = Image.fromarray(QUARTERS)
    near = QUARTERS.astype(int)
    for mode, name in (("CMYK", "cmyk.jpg"), ("CMYK", "cmyk.tif"), ("YCbCr", "y.tif"), ("P", "p.png"), ("P", "p.gif")):
        given = {"quality": 100, "subsampling": 0} if name.endswith("jpg") else {}
        path = save(rgb.convert(mode), name, **given)
        assert abs(seen(path) - near)[2::8, 2::8].max() <= 12, name
    one = save(rgb.convert("L").point(lambda value: 255 * (value > 100)).convert("1"), "one.png")
    np.testing.assert_array_equal(seen(one)[[2, 2, 13, 13], [2, 13, 2, 13], 0], [0, 255, 0, 255])
    grey = save(rgb.convert("L"), "grey.jpg", quality=100)
    np.testing.assert_allclose(seen(grey)[2, 2], [76, 76, 76], atol=2)
    # L = 53.24, a = 80.09, b = 67.20 is the red of sRGB; the reference white of a profile is D50, so that it moves.
    lab = np.zeros((16, 16, 3), np.uint8)
    lab[...] = (138, 81, 70)
    path = save(Image.frombytes("LAB", (16, 16), lab.tobytes()), "lab.tif")
    np.testing.assert_allclose(seen(path)[4, 4], RED, atol=8)


def test_several_frames_give_the_first_with_a_remark() -> None:
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    for name in ("a.gif", "a.png", "a.tif", "a.webp"):
        path = save(first, name, save_all=True, append_images=[second])
        assert (abs(seen(path).astype(int) - RED) <= 3).all(), name
        assert pictures.read(path, 16).remarks == ("the first of several frames or pages",)
        assert pictures.read(save(first, f"single-{name}"), 16).remarks == ()


def test_a_profile_has_a_remark_unless_it_is_srgb() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    picture = Image.fromarray(QUARTERS)
    assert pictures.read(save(picture, "s.png", icc_profile=srgb), 16).remarks == ()
    assert pictures.read(save(picture, "d.png", icc_profile=b"damaged"), 16).remarks == ()
    found = pictures.read(save(picture, "x.png", icc_profile=other), 16)
    assert found.remarks == ("a colour profile other than sRGB, not applied",)
    np.testing.assert_array_equal(found.pixels, QUARTERS)


def test_what_is_an_image() -> None:
    Image.fromarray(QUARTERS).save("no_ending", format="PNG")
    Image.fromarray(QUARTERS).save("photo.heic.backup", format="JPEG")
    Path("notes.txt").write_text("P5 is not a picture here")
    Path("BM").write_text("BMW, a list of cars")
    Path("empty").write_bytes(b"")
    Path("a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    found = {path.name for path in Path().iterdir() if pictures.is_picture(path)}
    assert found == {"no_ending", "photo.heic.backup"}
    np.testing.assert_array_equal(seen(Path("no_ending")), QUARTERS)
    assert {".jpg", ".jfif", ".gif", ".avif", ".png", ".tiff", ".webp", ".tga"} <= set(pictures.endings())
    assert not {".eps", ".wmf", ".mpg", ".pdf", ".h5"} & set(pictures.endings())
    Path("a.jpg").write_bytes(Path("no_ending").read_bytes())  # whatever its ending says
    np.testing.assert_array_equal(seen(Path("a.jpg")), QUARTERS)


def test_what_cannot_be_read_is_named_in_one_line() -> None:
    Path("empty.jpg").write_bytes(b"")
    refused(Path("empty.jpg"), "an empty file")
    Path("page.jpg").write_text("<html>404</html>")
    refused(Path("page.jpg"), "not an image")
    for ending in ("jpg", "png", "gif", "webp", "tif", "avif", "bmp", "jp2", "tga"):
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
        path = save(noise, f"cut.{ending}")
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        refused(path, "not ")
    os.symlink("nowhere.png", "link.png")
    refused(Path("link.png"), "not a readable image: No such file")
    os.mkfifo("pipe.png")
    refused(Path("pipe.png"), "no regular file")
    Path("folder.png").mkdir()
    refused(Path("folder.png"), "no regular file")
    Image.new("1", (20000, 20000)).save("bomb.png")
    refused(Path("bomb.png"), "too large: more than 178,956,970 pixels")
    refused(png("none.png", 8, 0, [], 4), "not a")
    refused(png("no_palette.png", 8, 3, [bytes(4)] * 4, 4), r"not a readable image: damaged \(")
    Path("new\nline.jpg").write_text("text")
    with pytest.raises(UserError, match=r"new\\nline\.jpg: not an image"):
        pictures.read(Path("new\nline.jpg"), 8)


def test_a_file_without_permission_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal of the system is made up."""

    def closed(path: Path, **given: Any) -> Image.Image:
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("a.png", "b"):
        Path(name).write_bytes(b"x")
    monkeypatch.setattr(Image, "open", closed)
    refused(Path("a.png"), "not a readable image: Permission denied$")
    with pytest.raises(UserError, match=r"^b: Permission denied$"):
        pictures.is_picture(Path("b"))


@pytest.mark.skipif(not (SHARED / "data/imagenet_samples.zip").exists(), reason="needs ../shared/data, real images")
def test_real_photographs_are_read_as_before_but_upright() -> None:
    """torchvision's steps: RGB, the shorter side resized, the centre cut out."""
    with zipfile.ZipFile(SHARED / "data/imagenet_samples.zip") as archive:
        archive.extractall(".")
    paths = sorted(Path().rglob("*.JPEG"))
    assert len(paths) == 96
    turned = []
    for path in paths:
        with Image.open(path) as file:
            plain = file.convert("RGB")
        scale = 48 / min(plain.size)
        width, height = (max(48, round(side * scale)) for side in plain.size)
        left, top = (width - 48) // 2, (height - 48) // 2
        resized = plain.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 48, top + 48))
        if not np.array_equal(seen(path, 48), np.asarray(resized)):
            turned.append(path.name)
    assert turned == ["n02951585_can_opener.JPEG"]  # the one that says to be turned


def test_thin_tiny_and_large_images() -> None:
    thin = np.zeros((1, 300_000, 3), np.uint8)
    thin[:, 149_999:150_001] = 200
    found = seen(save(thin, "thin.png"), 64)  # 19 million pixels high and wide, were all of it enlarged
    assert found[:, 32].min() > 150
    assert found[:, 32].max() <= 200
    tall = seen(save(np.ascontiguousarray(thin.transpose(1, 0, 2)), "tall.png"), 64)
    np.testing.assert_array_equal(tall, found.transpose(1, 0, 2))
    assert (seen(save(np.full((1, 1, 3), 77, np.uint8), "dot.png"), 32) == 77).all()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("height", "width"), [(8, 16), (16, 8), (4, 20)])
def test_sizes_that_are_not_square_are_just_covered_by_the_upright_picture(
    height: int, width: int, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middle of the upright picture: the thin way out, in which it is not resized as a whole, agrees."""
    stored = QUARTERS if orientation == 1 else np.rot90(QUARTERS)
    exif = Image.Exif()
    exif[274] = orientation
    path = save(np.ascontiguousarray(stored), "quarters.png", exif=exif)
    side = max(height, width)
    whole = np.asarray(Image.fromarray(QUARTERS).resize((side, side), Image.Resampling.BILINEAR))
    top, left = (side - height) // 2, (side - width) // 2
    expected = whole[top : top + height, left : left + width].astype(int)
    np.testing.assert_array_equal(pictures.read(path, (height, width)).pixels, expected)
    monkeypatch.setattr(pictures, "LARGE", 1)
    assert abs(pictures.read(path, (height, width)).pixels - expected).max() <= 1


def test_a_huge_jpeg_keeps_enough_pixels_for_a_long_size(monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(QUARTERS.repeat(64, 0).repeat(64, 1), "large.jpg", quality=95)
    plain = pictures.read(path, (8, 400)).pixels.astype(int)
    monkeypatch.setattr(pictures, "HUGE", 1000)
    assert abs(pictures.read(path, (8, 400)).pixels - plain).max() <= 12


def test_a_reduction_averages_over_all_pixels() -> None:
    """A checkerboard is grey at every size: a filter that took single pixels would see black or white ones."""
    board = (np.indices((960, 960)).sum(0) % 2 * 255).astype(np.uint8)
    for size in (4, 15, 24):
        np.testing.assert_allclose(seen(save(board, "board.png"), size), 127.5, atol=1.5)
    ramp = np.tile(np.linspace(0, 255, 1024).astype(np.uint8), (512, 1))  # the middle half of it is kept
    np.testing.assert_allclose(seen(save(ramp, "ramp.png"), 8)[4, :, 0], np.linspace(72, 183, 8), atol=2)


def test_one_large_image_at_a_time_and_huge_ones_at_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(QUARTERS.repeat(64, 0).repeat(64, 1), "large.jpg", quality=95)
    plain = seen(path).astype(int)
    monkeypatch.setattr(pictures, "LARGE", 1000)
    monkeypatch.setattr(pictures, "HUGE", 1000)
    held, sizes, load = [], [], pictures._clear_colour

    def noted(file: Image.Image) -> Any:
        held.append(pictures._one_large.locked())
        sizes.append(file.size)
        return load(file)

    monkeypatch.setattr(pictures, "_clear_colour", noted)
    assert abs(seen(path).astype(int) - plain).max() <= 12
    assert held == [True]
    assert sizes == [(128, 128)]  # an eighth of 1024
    assert not pictures._one_large.locked()
    assert isinstance(pictures._one_large, type(threading.Lock()))
