"""normbench: a reproducible benchmark of normalization methods for convolutional networks.

`normbench.compare` and `normbench.score` are for notebooks (see `normbench.notebook`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normbench.notebook import Comparison, compare, score

__version__ = "0.1.0"
__all__ = ["Comparison", "compare", "score"]


def __getattr__(name: str) -> Any:
    # Imported on first use, because it imports torch.
    if name in __all__:
        from normbench import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
