"""Image files as arrays of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from normbench.system.errors import UserError
from normbench.system.size import Size, sides


def read(path: Path, size: Size) -> np.ndarray:
    """Reads an image, resizes it until it just covers `size` and crops the centre: uint8 (H, W, 3).

    Raises UserError if the file is not a readable image.
    """
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image: {getattr(error, 'strerror', None) or error}") from None
    height, width = sides(size)
    scale = max(width / picture.width, height / picture.height)
    wide, high = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    left, top = (wide - width) // 2, (high - height) // 2
    picture = picture.resize((wide, high), Image.Resampling.BILINEAR)
    return np.asarray(picture.crop((left, top, left + width, top + height)))
