"""The table of the corruptions, and the decorator that puts a function into it.

A corruption is a function under the decorator `corruption`, in a file of this folder or in a file of the user's own.
The decorator carries everything about it, so there is no list to edit:

    @corruption(constants=(0.01, 0.02, 0.03, 0.05, 0.08), draws=one_each)
    def salt(images: Bytes, share: float, bits: Bits) -> Bytes: ...

`salt` in a file of this folder is known by its name. In a file of the user's own it is known by a reference,
`my_corruptions/salt.py:salt` or `package.module:salt`. docs/extending.md has a complete example.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from normbench.corruptions.constants import BENCHMARK, SETS, SEVERITIES
from normbench.corruptions.draws import Draws, Stream
from normbench.corruptions.operators import Bytes
from normbench.system import plugins
from normbench.system.errors import UserError, hint
from normbench.system.fingerprint import Root, closure

Function = TypeVar("Function", bound=Callable[..., Bytes])
Drawing = Callable[[Stream, Bytes, Any], Draws]

# A folder of corrupted images also holds labels.npy, so no corruption may have this name.
RESERVED = "labels"


@dataclass(frozen=True)
class Corruption:
    """A corruption of the table, with what the decorator `corruption` was told about it.

    name: the name of its function, and of the file `<name>.npy` that its images are written to.
    function: takes images uint8 (N, H, W, C), the constants of one severity and the arrays that `draws` returns. It
    returns new images of the same shape and type and leaves the given ones as they are.
    constants: for each name in `SETS` the constants of the five severities, the mildest first.
    draws: makes the random arrays from a `Stream`, the images and the constants; None where nothing is random.
    needs_colour: whether the function takes RGB images only.
    """

    name: str
    function: Callable[..., Bytes]
    constants: Mapping[str, tuple[Any, ...]]
    draws: Drawing | None = None
    needs_colour: bool = False

    @property
    def source(self) -> tuple[Path, str]:
        """The file of the function and its name in that file: the code behind the corruption."""
        return Path(inspect.getfile(self.function)), self.function.__name__

    def draw(self, images: Bytes, constants: Any, seed: int, severity: int, index: np.ndarray) -> Draws:
        """Returns the random arrays for images uint8 (N, H, W, C), each with the images on its first axis.

        index: integers (N,), the numbers of the images in their dataset. The order and the size of a batch have no
        other influence. The result is an empty tuple if nothing is random.
        """
        if self.draws is None:
            return ()
        return self.draws(Stream(seed, self.name, severity, index), images, constants)


TABLE: plugins.Table[Corruption] = plugins.Table("normbench.corruptions", "corruption")


@plugins.registers_arguments
def corruption(
    *,
    constants: Mapping[str, Sequence[Any]] | Sequence[Any],
    draws: Drawing | None = None,
    needs_colour: bool = False,
) -> Callable[[Function], Function]:
    """A decorator that registers a function as a corruption, under the name of the function.

    constants: what the function is given at each of the five severities, the mildest first: one sequence of five for
    images of any size, or a mapping with a sequence of five for each of `cifar`, `tiny_imagenet` and `imagenet`.
    draws: a function of a `Stream`, the images and the constants that returns the random arrays, as a tuple. They are
    the further arguments of the corruption, and each has the images on its first axis.
    needs_colour: True for a function that takes RGB images only. A grey image is then given to it as an RGB image of
    three equal channels, and the luma of the result is kept.

    Raises ValueError if the constants are not complete or the name is not free.
    """
    known = constants if isinstance(constants, Mapping) else dict.fromkeys(SETS, constants)
    if set(known) != set(SETS):
        raise ValueError(f"constants for {', '.join(known)}: a corruption needs {', '.join(SETS)}")
    for place, values in known.items():
        if len(values) != len(SEVERITIES):
            raise ValueError(f"{len(values)} constants for {place}: a corruption needs one for each of 5 severities")

    def register(function: Function) -> Function:
        name = function.__name__
        if name == RESERVED:
            raise ValueError(f"a corruption cannot be called {name}: {name}.npy holds the labels of the images")
        entry = Corruption(name, function, {key: tuple(known[key]) for key in SETS}, draws, needs_colour)
        TABLE.add(name, function.__module__, entry)
        return function

    return register


def names() -> tuple[str, ...]:
    """Returns the names of this package's corruptions: those of the benchmark in its order, then the others by name."""
    return (*BENCHMARK, *sorted(set(TABLE.names()) - set(BENCHMARK)))


def get(reference: str) -> Corruption:
    """Returns the corruption with a name or reference.

    Raises UserError if there is none, and if a corruption of the user's own has the name of one of this package,
    because their files and results could not be distinguished.
    """
    known = TABLE.names()
    if not isinstance(reference, str):
        raise UserError(f"corruption {reference!r}: needs a name; valid: {', '.join(sorted(known))}")
    if not plugins.is_place(reference) and reference not in known:
        raise UserError(f"unknown corruption '{reference}': {hint(reference, known, limit=len(known))}")
    found = TABLE.get(reference)
    if found.name in known and TABLE.get(found.name) is not found:
        raise UserError(f"corruption '{reference}': normbench has a {found.name} too; rename the function")
    return found


def named(references: Iterable[str]) -> dict[str, str]:
    """Returns the reference of each corruption by its name, in the given order; built-in names are their own reference.

    Raises UserError if there is no such corruption, or if two have the same name, because both would be `<name>.npy`.
    """
    found: dict[str, str] = {}
    for reference in references:
        name = get(reference).name
        if found.setdefault(name, reference) != reference:
            raise UserError(f"corruptions '{found[name]}' and '{reference}' have the same name; rename one function")
    return found


def own(chosen: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Returns the `reference` and the `code` of the user's own corruptions, by name.

    chosen: a result of `named`. `code` is the digest of what the code of the corruption means (see
    `normbench.system.fingerprint`).
    """
    return {
        name: {"reference": reference, "code": closure([Root(*get(reference).source)]).digest}
        for name, reference in chosen.items()
        if ":" in reference
    }
