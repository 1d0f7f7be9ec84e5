"""What a corruption must do, checked on a few small images at the mildest and the strongest severity."""

from __future__ import annotations

import numpy as np

from normbench.corruptions import corrupt, registry
from normbench.corruptions.constants import SEVERITIES, set_for
from normbench.corruptions.operators import Bytes
from normbench.system import blame
from normbench.system.errors import UserError

COUNT = 6


def check(reference: str, side: int) -> None:
    """Raises UserError, one line with the file and the line number, if a corruption does not do what it must.

    It leaves its images as they are, returns new ones of the same shape and type, and gives an image the same result
    again, in any batch. side: height and width of the images in pixels.
    """
    found = registry.get(reference)
    where = blame.definition(found.function) or reference
    generator = np.random.Generator(np.random.PCG64(0))
    state = str(np.random.get_state())

    def located(error: BaseException) -> str:
        return blame.place(error) or where

    for channels in (3, 1):
        images = generator.integers(0, 256, (COUNT, side, side, channels)).astype(np.uint8)
        images.flags.writeable = False
        for severity in (SEVERITIES[0], SEVERITIES[-1]):
            doing = f"corruption '{reference}', severity {severity}, images {images.shape}"
            with blame.in_one_line(doing, located):
                constants, numbers = found.constants[set_for(side, side)][severity - 1], np.arange(COUNT)
                if channels == 3:
                    made = found.function(images, constants, *found.draw(images, constants, 0, severity, numbers))
                    if not isinstance(made, np.ndarray):
                        kind = type(made).__name__
                        raise UserError(f"{where}: a {kind} was returned; expected uint8 of shape {images.shape}")
                whole = _called(images, reference, severity, numbers, where)
                again = _called(images, reference, severity, numbers, where)
                part = _called(images[2:4], reference, severity, np.arange(2, 4), where)
                none = _called(images[:0], reference, severity, np.arange(0), where)
            if not np.array_equal(whole, again) or str(np.random.get_state()) != state:
                raise UserError(f"{where}: random numbers that are not from its Stream; use `draws` ({doing})")
            if not np.array_equal(part, whole[2:4]) or len(none):
                raise UserError(f"{where}: what an image becomes depends on the other images of its batch ({doing})")


def _called(images: Bytes, reference: str, severity: int, numbers: np.ndarray, where: str) -> Bytes:
    try:
        return corrupt(images, reference, severity, index=numbers)
    except UserError as error:  # about the shape or the type of the result
        raise UserError(f"{where}: {error}") from error
