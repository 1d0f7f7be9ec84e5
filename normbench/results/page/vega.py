"""The scripts that make charts interactive: Vega, Vega-Lite and vega-embed, as vl-convert brings them."""

from __future__ import annotations

import functools
import importlib.metadata
import re

import platformdirs
import vl_convert

from normbench.results.charts import VEGA_LITE
from normbench.system import files


@functools.cache
def bundle() -> str:
    """Returns the scripts as one text that can stand in a script element: nothing in it ends the element.

    It takes seconds to make, so it is kept in the user's cache, for each version of vl-convert.
    """
    version = importlib.metadata.version("vl-convert-python")
    kept = platformdirs.user_cache_path("normbench", appauthor=False) / f"vega-lite-{VEGA_LITE}-{version}.js"
    try:
        return kept.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        made = re.sub(
            "<(?=/script|!--)", r"\\x3c", vl_convert.javascript_bundle(vl_version=VEGA_LITE), flags=re.IGNORECASE
        )
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(kept, made)
    except OSError:
        pass  # A cache that cannot be written costs only time.
    return made
