"""Image files as a person sees them: upright, transparency on a background, in 8-bit RGB.

What Pillow opens is either converted or refused with a line that names the file:

- The orientation of the metadata (EXIF or XMP) is applied; one that cannot be read, or is none of 1 to 8, is ignored.
- Transparency of every form lies on a background of one colour.
- 16 bits of grey are scaled to 8, with 65535 (in packed 12-bit TIFF 4095) as white. Float and 32-bit pixels are
  refused, because nothing in such a file says which value is white.
- CMYK, YCbCr, HSV, LAB and palettes become RGB. An embedded colour profile is not applied, as in the common loaders of
  published results; for a profile other than sRGB there is a remark.
- Of several frames or pages, the first is read, with a remark.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from normbench.data.tree import listed
from normbench.system.errors import UserError
from normbench.system.size import Size, sides
from normbench.system.text import clean

# Formats whose first bytes tell them from other files, whatever the file is called.
BY_CONTENT = (
    *("AVIF", "BMP", "DDS", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000"),
    *("PNG", "PPM", "PSD", "QOI", "SGI", "SUN", "TIFF", "WEBP"),
)
# Formats that are tried only for files with an ending of theirs, because others could pass for one of them.
BY_ENDING = ("BLP", "CUR", "DCX", "DIB", "IM", "MSP", "PCX", "TGA", "XBM", "XPM")

TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LARGE = 1 << 24  # pixels from which only one image at a time is in memory
HUGE = 1 << 26  # pixels from which a JPEG is decoded at a fraction of its size, if that is enough for the result

_one_large = threading.Lock()


class Picture(NamedTuple):
    """An image and what a reader should know of it. pixels: uint8 (H, W, 3). remarks: phrases, mostly none."""

    pixels: np.ndarray
    remarks: tuple[str, ...]


@cache
def endings() -> dict[str, str]:
    """The endings of image files in lower case, such as `.png`, each with the format that Pillow has for it."""
    accepted = {*BY_CONTENT, *BY_ENDING, "MPO"}
    return {ending: kind for ending, kind in Image.registered_extensions().items() if kind in accepted}


def phrases(remarks: Mapping[str, Sequence[str]]) -> list[str]:
    """A phrase for each remark with the names of the images to which it applies."""
    return [f"{text}: {len(names)} images ({listed(names)})" for text, names in remarks.items()]


def is_picture(path: Path) -> bool:
    """Whether a file is an image: by its ending, or else by its content.

    Raises UserError if its content is needed and cannot be read.
    """
    if path.suffix.lower() in endings():
        return True
    try:
        with Image.open(path, formats=BY_CONTENT):
            return True
    except Image.DecompressionBombError:
        return True
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{clean(path)}: {error.strerror}") from None
        return False
    except Exception:  # what a parser meets in a file that only begins like an image
        return False


def read(path: Path, size: Size, background: str = "white") -> Picture:
    """Reads an image, resizes it until it just covers `size`, and crops the centre.

    The filter is Pillow's bilinear one, whose support grows with the reduction (antialiasing). background: the colour
    under transparent pixels. Raises UserError with one line that names the file if it cannot be read.
    """
    with _opened(path, path) as file:
        picture, remarks = _upright(file, path, background, max(sides(size)))
        return Picture(np.asarray(_fitted(picture, size)), remarks)


def whole(path: Path, content: bytes, background: str = "white") -> Picture:
    """Reads an image in its own size from the content of its file. path, background: as in `read`, and the errors."""
    with _opened(path, io.BytesIO(content)) as file:
        picture, remarks = _upright(file, path, background)
        return Picture(np.asarray(picture), remarks)


def decoded(path: Path, content: bytes, background: str = "white") -> np.ndarray:
    """The pixels of `whole`, uint8 (H, W, 3), in half of its time if the file is a plain JPEG.

    That goes without saying that a JPEG is damaged, so it is for files that `whole` has read before.
    """
    with _opened(path, io.BytesIO(content)) as file:
        plain = file.format == "JPEG" and file.mode in ("L", "RGB") and file.width * file.height < LARGE
        if not plain or _orientation(file) != 1:
            return np.array(_upright(file, path, background)[0])
    import cv2

    how = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), how))


def covering(picture: np.ndarray, size: Size, resize: int | None) -> np.ndarray:
    """The centre of a picture, uint8 (H, W, 3), in a size of (height, width).

    resize: None to resize the picture until it just covers the size; or the pixels of the shorter side, as the
    transforms `Resize` and `CenterCrop` of torchvision have it for Pillow's images. It is at least each side of `size`.
    """
    image = Image.fromarray(picture)
    if resize is None:
        return np.asarray(_fitted(image, size))
    image = shortened(image, resize)
    height, width = sides(size)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def shortened(image: Image.Image, side: int) -> Image.Image:
    """The image resized with Pillow's bilinear filter so that its shorter side has this many pixels."""
    shorter, longer = sorted(image.size)
    other = int(side * longer / shorter)
    size = (side, other) if image.width <= image.height else (other, side)
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


@contextmanager
def _opened(path: Path, source: Path | io.BytesIO) -> Iterator[Image.Image]:
    """An image file, of which nothing is decoded yet; what its reading raises becomes a UserError that names it.

    source: where its bytes are. Of large images only one at a time is in memory.
    """
    kind = endings().get(path.suffix.lower())
    formats = [*BY_CONTENT, *([kind] if kind in BY_ENDING else [])]
    try:
        if isinstance(source, Path) and not os.path.isfile(path):  # opening a pipe would wait for ever
            os.stat(path)
            raise UserError(f"{clean(path)}: no regular file")
        with Image.open(source, formats=formats) as file:
            if file.width * file.height < LARGE:
                yield file
            else:
                with _one_large:
                    yield file
    except UserError:
        raise
    except UnidentifiedImageError:
        empty = not (path.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes)
        raise UserError(f"{clean(path)}: {'an empty file' if empty else 'not an image'}") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(f"{clean(path)}: too large: more than {limit:,} pixels; reduce it first") from None
    except Exception as error:  # decoders raise errors of every kind for damaged files
        reason = getattr(error, "strerror", None) or str(error) or f"damaged ({type(error).__name__})"
        raise UserError(f"{clean(path)}: not a readable image: {clean(reason)}") from None


def _upright(
    file: Image.Image, path: Path, background: str, needed: int | None = None
) -> tuple[Image.Image, tuple[str, ...]]:
    """Decodes an opened file into RGB, with remarks on it: see `read`.

    needed: the pixels of each side that are enough; None for all.
    """
    remarks = [*_several_frames(file), *_profile(file)]
    if not min(file.size):
        raise UserError(f"{clean(path)}: {file.width} x {file.height} pixels: nothing to see")
    if needed is not None and file.format in ("JPEG", "MPO") and file.width * file.height >= HUGE:
        file.draft(None, (2 * needed, 2 * needed))
    clear = _clear_colour(file)
    file.load()
    turned = TRANSPOSED.get(_orientation(file))
    picture: Image.Image = file
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _grey(file, path, clear)
        remarks.append("16 bits of grey, scaled to 8")
    elif clear is not None:
        picture.info["transparency"] = clear
    if picture.has_transparency_data:
        picture, visible = _on_background(picture, background)
        remarks += [f"transparent pixels, shown on {background}"] if visible else []
    elif picture.mode == "LAB":
        picture = _from_lab(picture)
    elif picture.mode != "RGB":
        picture = picture.convert("RGB")
    if turned is not None:
        picture = picture.transpose(turned)
    return picture, tuple(remarks)


def _several_frames(file: Image.Image) -> list[str]:
    """A remark for animations and files of several pages, but not for the second picture of a camera's file (MPO)."""
    if file.format == "MPO":
        return []
    try:
        several = getattr(file, "is_animated", False)
    except Exception:  # damage after the first frame, which is all that is read
        several = True
    return ["the first of several frames or pages"] if several else []


def _profile(file: Image.Image) -> list[str]:
    """A remark for an embedded colour profile that is not sRGB."""
    content = file.info.get("icc_profile")
    if not content:
        return []
    from PIL import ImageCms

    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(content)))
    except Exception:  # damaged, so that no viewer applies it
        return []
    srgb = "srgb" in name.lower() or name.strip() == "c2"  # c2: the small sRGB profile of some websites
    return [] if srgb else ["a colour profile other than sRGB, not applied"]


def _orientation(file: Image.Image) -> int:
    """The orientation in the metadata of a loaded file, 1 to 8; 1 if there is none or it cannot be read.

    Pillow has turned a TIFF itself when it is loaded, and has removed the tag.
    """
    try:
        found = file.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # metadata is damaged in many ways; the image may be whole
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _clear_colour(file: Image.Image) -> Any:
    """The transparent colour of an opened file in the scale of its decoded pixels; None if it names none.

    A PNG gives it in the depth of its samples, and Pillow widens or narrows some of them to 8 bits.
    """
    clear = file.info.get("transparency")
    tiles = getattr(file, "tile", [])
    if file.format != "PNG" or clear is None or not tiles:
        return clear
    raw = tiles[0].args
    if raw in ("L;2", "L;4"):
        return clear * (85 if raw == "L;2" else 17)
    if raw == "RGB;16B":
        return tuple(value >> 8 for value in clear)
    return clear


def _grey(file: Image.Image, path: Path, clear: Any) -> Image.Image:
    """Grey of 16 bits as L, or as LA if a value is transparent. clear: that value, or None.

    Raises UserError for pixels whose range the file does not tell.
    """
    if file.mode == "F" or (file.mode == "I" and file.format not in ("PNG", "PPM")):
        kind = "floating-point" if file.mode == "F" else "signed or 32-bit"
        raise UserError(
            f"{clean(path)}: {kind} pixels, and the file does not say which value is white: save it as 8-bit"
        )
    values = np.asarray(file).astype(np.int64)
    tags = getattr(file, "tag_v2", {})
    white = 4095 if tags.get(258) == (12,) else 65535
    grey = (np.clip(values, 0, white) * 255 + white // 2) // white
    if tags.get(262) == 0:  # 0 is white; Pillow turns this around for 8 bits only
        grey = 255 - grey
    picture = Image.fromarray(grey.astype(np.uint8))
    if isinstance(clear, int):
        picture.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return picture


def _on_background(picture: Image.Image, background: str) -> tuple[Image.Image, bool]:
    """The picture in RGB on a background, and whether that is seen anywhere."""
    if picture.mode == "La":
        picture = picture.convert("LA")
    over = picture.convert("RGBA")
    lowest, _ = over.getchannel("A").getextrema()
    if lowest == 255:
        return over.convert("RGB"), False
    return Image.alpha_composite(Image.new("RGBA", over.size, background), over).convert("RGB"), True


def _from_lab(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture, *profiles, outputMode="RGB")
    if converted is None:
        raise ValueError("its colours cannot be converted")
    return converted


def _fitted(picture: Image.Image, size: Size) -> Image.Image:
    """The picture resized until it just covers the size, and cut to its middle."""
    height, width = sides(size)
    scale = max(width / picture.width, height / picture.height)
    wide, high = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    left, top = (wide - width) // 2, (high - height) // 2
    if wide * high < LARGE:
        resized = picture.resize((wide, high), Image.Resampling.BILINEAR)
        return resized.crop((left, top, left + width, top + height))
    # Of a very thin picture, only the part that is kept is resized, in a single step: values may differ by 1.
    across, down = picture.width / wide, picture.height / high
    part = (left * across, top * down, (left + width) * across, (top + height) * down)
    return picture.resize((width, height), Image.Resampling.BILINEAR, part)
