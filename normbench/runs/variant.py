"""A variant: a named method with its options."""

from __future__ import annotations

from typing import Any

from normbench.system.schema import Strict


class VariantEntry(Strict):
    """An entry under `variants` in params.yaml.

    method: the name of a file in normbench/methods, `path/to/file.py:Class` or `package.module:Class`.
    """

    method: str
    options: dict[str, Any] = {}


class Variant(VariantEntry):
    """A resolved variant: its name, all options of its method with their values, and the digest of the method."""

    name: str
    method_code: str

    def identity(self) -> dict[str, Any]:
        """Returns the part of the variant that enters a run's id: the options and the code, but no name or path."""
        return {"options": self.options, "method_code": self.method_code}
