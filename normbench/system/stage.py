"""What the scripts in `stages/` share: command-line arguments, and user errors as one line with exit code 1."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from normbench.system import blame, plugins, preemption
from normbench.system.errors import UserError, line
from normbench.system.text import INTERRUPTED, complain, show_traceback


def run(function: Callable[..., Any], *options: str) -> None:
    """Calls `function` with the given command-line options, all required: `run(train, "task", "variant")`."""
    parser = argparse.ArgumentParser(description=(function.__doc__ or "").split("\n")[0])
    for option in options:
        parser.add_argument(f"--{option}", required=True)
    arguments = vars(parser.parse_args())
    preemption.watch()
    sys.excepthook = show_traceback
    if os.environ.get(preemption.ENDS_WITH):
        preemption.end_with(int(os.environ[preemption.ENDS_WITH]))
    guarded(lambda: function(**arguments))


def guarded(task: Callable[[], Any]) -> None:
    """Calls a task and turns its errors into messages and exit codes.

    UserError, OSError, a lack of memory or of a deterministic kernel, and errors of the user's own files become one
    line and exit code 1, an interrupt exit code 130. With the environment variable NORMBENCH_TRACEBACK, all but
    UserError keep their traceback.
    """
    try:
        task()
    except UserError as error:
        complain(*error.args)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        complain(INTERRUPTED)
        raise SystemExit(130) from None
    except OSError as error:
        if os.environ.get(blame.TRACEBACK):
            raise
        complain(line(error))
        raise SystemExit(1) from None
    except Exception as error:
        where = plugins.place_of(error)
        if (where is None and blame.known(error) is None) or os.environ.get(blame.TRACEBACK):
            raise
        complain(
            f"{f'{where}: ' if where else ''}{blame.one_line(error)} ({blame.TRACEBACK}=1 shows the whole traceback)"
        )
        raise SystemExit(1) from None
