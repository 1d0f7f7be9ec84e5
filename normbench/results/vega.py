"""The scripts that draw charts in a browser: Vega, Vega-Lite and vega-embed, from the package vl-convert."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re

import platformdirs

from normbench.results.charts import VEGA_LITE
from normbench.system import files, layout

SCRIPTS = layout.BUILD / "vega.js"  # where the page of `dvc plots` looks for them


def write() -> None:
    """Writes build/vega.js, with which the page of `dvc plots` needs no network."""
    files.write_text(SCRIPTS, bundle())


def bundle() -> str:
    """Returns the scripts as one text, in which nothing ends a script element of HTML.

    It takes seconds to put together, so it is kept in the user's cache, for each version of vl-convert.
    """
    version = importlib.metadata.version("vl-convert-python")
    kept = (
        platformdirs.user_cache_path("normbench", appauthor=False) / f"vega-lite-{VEGA_LITE}-of-vl-convert-{version}.js"
    )
    try:
        return kept.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        import vl_convert

        made = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
        made = re.sub("<(?=/script|!--)", r"\\x3c", made, flags=re.IGNORECASE)
    with contextlib.suppress(OSError):  # A cache that cannot be written costs only time.
        files.write_text(kept, made)
    return made
