"""What the scripts in `stages/` share: command-line arguments, and user errors as one line with exit code 1."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from normbench.system import preemption
from normbench.system.errors import UserError, line

ENDS_WITH = "NORMBENCH_ENDS_WITH"  # the id of the sweep that calls a stage, itself or through DVC


def run(function: Callable[..., Any], *options: str) -> None:
    """Calls `function` with the given command-line options, all required: `run(train, "task", "variant")`."""
    parser = argparse.ArgumentParser(description=(function.__doc__ or "").split("\n")[0])
    for option in options:
        parser.add_argument(f"--{option}", required=True)
    arguments = vars(parser.parse_args())
    preemption.watch()
    if os.environ.get(ENDS_WITH):
        preemption.end_with(int(os.environ[ENDS_WITH]))
    guarded(lambda: function(**arguments))


def guarded(task: Callable[[], Any]) -> None:
    """Calls a task and turns its errors into messages and exit codes.

    UserError and OSError become one line and exit code 1, an interrupt exit code 130. With the environment variable
    NORMBENCH_TRACEBACK, an OSError keeps its traceback.
    """
    try:
        task()
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept, the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        if os.environ.get("NORMBENCH_TRACEBACK"):
            raise
        print(line(error), file=sys.stderr, flush=True)
        raise SystemExit(1) from None
