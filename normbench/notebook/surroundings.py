"""What a call from a notebook leaves as it was, and the folders that it uses."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import platformdirs
import torch

from normbench.runs.checkpoint import random_state, set_random_state
from normbench.system import blame, device, progress
from normbench.system.errors import UserError

DOWNLOADS = "NORMBENCH_DOWNLOADS"


@contextlib.contextmanager
def undisturbed(quiet: bool) -> Iterator[None]:
    """A context whose results do not depend on torch's settings, and that leaves them and all generators as they were.

    What is printed goes to stderr. quiet: whether to show no progress. A UserError, whose text says all, leaves it
    without the traceback that a notebook would show below the cell, unless NORMBENCH_TRACEBACK is set.
    """
    state = random_state()
    with contextlib.ExitStack() as stack:
        stack.callback(set_random_state, state)
        stack.enter_context(device.settings_kept())
        stack.enter_context(blame.torch_settings_kept())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if quiet:
            stack.enter_context(progress.silenced())
        torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            torch.set_default_device("cpu")
        try:
            yield
        except UserError as error:
            if os.environ.get(blame.TRACEBACK):
                raise
            raise UserError(*error.args) from None


@contextlib.contextmanager
def downloads_in_cache() -> Iterator[None]:
    """A context in which archives are downloaded into the user's cache, unless NORMBENCH_DOWNLOADS names a folder."""
    if DOWNLOADS in os.environ:
        yield
        return
    os.environ[DOWNLOADS] = str(platformdirs.user_cache_path("normbench", appauthor=False) / "downloads")
    try:
        yield
    finally:
        del os.environ[DOWNLOADS]


@contextlib.contextmanager
def about(argument: str) -> Iterator[None]:
    """A context in which each line of a UserError gets the argument that it is about in front."""
    try:
        yield
    except UserError as error:
        raise UserError(*(f"{argument}: {line}" for line in error.args)) from None
