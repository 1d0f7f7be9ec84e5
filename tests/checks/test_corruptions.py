"""Mistakes in a corruption of one's own: one line each, before the test images are corrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from normbench.checks.corruption import check
from normbench.corruptions import NAMES
from normbench.system.errors import UserError

HEAD = """import numpy as np
from normbench.corruptions.draws import one_each
from normbench.corruptions.registry import corruption

five = (1, 2, 3, 4, 5)

"""
MISTAKES = {
    "an error": ("@corruption(constants=five)\ndef dust(images, c):\n    return images + d  # HERE\n", "NameError: name 'd' is not defined"),
    "None": ("@corruption(constants=five)\ndef dust(images, c):  # HERE\n    images + 1\n", "a NoneType was returned; expected uint8 of shape (6, 16, 16, 3)"),
    "type": ("@corruption(constants=five)\ndef dust(images, c):  # HERE\n    return images / c\n", "corruption 'dust' made float64 of shape (6, 16, 16, 3): needs uint8"),
    "in place": ("@corruption(constants=five)\ndef dust(images, c):\n    images[:] = 0  # HERE\n    return images\n", "ValueError: assignment destination is read-only"),
    "arguments": ("@corruption(constants=five)\ndef dust(images):  # HERE\n    return images\n", "TypeError: dust() takes 1 positional argument but 2 were given"),
    "no draws": ("@corruption(constants=five)\ndef dust(images, c, bits):  # HERE\n    return images\n", "missing 1 required positional argument: 'bits'"),
    "numpy's random numbers": ("@corruption(constants=five)\ndef dust(images, c):  # HERE\n    return images + np.random.randint(0, 9, images.shape).astype(np.uint8)\n", "random numbers that are not from its Stream; use `draws`"),
    "a generator without a seed": ("@corruption(constants=five)\ndef dust(images, c):  # HERE\n    return images + np.random.default_rng().integers(0, 9, images.shape).astype(np.uint8)\n", "random numbers that are not from its Stream"),
    "the mean of the batch": ("@corruption(constants=five)\ndef dust(images, c):  # HERE\n    return np.minimum(images, int(images.mean() if len(images) else 0)).astype(np.uint8)\n", "depends on the other images of its batch"),
    "colour only": ("@corruption(constants=five)\ndef dust(images, c):\n    return images + images[..., [2]]  # HERE\n", "IndexError: index 2 is out of bounds for axis 3 with size 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, said = MISTAKES[name]
    Path("dust.py").write_text(HEAD + text)
    line = 1 + (HEAD + text).splitlines().index(next(line for line in text.splitlines() if "# HERE" in line))
    with pytest.raises(UserError) as caught:
        check("dust.py:dust", 16)
    message = str(caught.value)
    assert message.startswith(f"dust.py:{line}: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["gaussian_noise", "fog", "saturate", "spatter"])
def test_those_of_the_package_are_in_order(name: str) -> None:
    assert name in NAMES
    check(name, 32)
