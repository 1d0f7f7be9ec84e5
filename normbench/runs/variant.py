"""A variant: a method with its options, under a name of params.yaml."""

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
    """A variant as resolved: with its name, all options of its method, and the digest of the code behind it."""

    name: str
    method_code: str

    def identity(self) -> dict[str, Any]:
        """What of the variant shapes a run of it: the code and the options, wherever the code lies."""
        return {"options": self.options, "method_code": self.method_code}
