"""The environment of normbench's processes: how many threads they have, how these wait, and how many cores there are.

The libraries behind torch, numpy and scipy read their settings from the environment once, when they are loaded. So an
entry point (a stage, the command) calls `set_environment` before it imports any of them, and what it starts inherits
them. Whoever imports normbench as a library keeps the settings of their own.
"""

from __future__ import annotations

import os

from normbench.system.errors import UserError

ENVIRONMENT = {
    # One thread, except where a recipe sets another number with `normbench.system.device.use_threads`: layers of small
    # networks gain little from a second one, and the number changes the last digits of sums, so that it must not depend
    # on the machine. OpenBLAS and MKL follow it too; OpenCV has a variable of its own.
    "OMP_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    # Threads that wait sleep, which changes no digit. By default they keep their cores busy for a while, and so hold up
    # the very thread that they wait for if another process runs too. All implementations of OpenMP follow it.
    "OMP_WAIT_POLICY": "passive",
    # How cuBLAS divides its memory on a GPU. It reads this before its first product, and with another setting or none
    # its products may change from run to run, which `deterministic` in a recipe rules out.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
MOST = "LOKY_MAX_CPU_COUNT"


def set_environment() -> None:
    """Sets those variables of `ENVIRONMENT` that the user has not set. To be called before torch or numpy is imported.

    It has no effect on libraries that are loaded already.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def cores() -> int:
    """Returns the number of cores that this process may use, 1 or more; no result depends on it.

    These are the machine's, fewer with an affinity mask (`taskset`), with the CPU quota of a container, rounded up, or
    with joblib's variable LOKY_MAX_CPU_COUNT. Raises UserError if that is no whole number.
    """
    import joblib

    try:
        return joblib.cpu_count()
    except ValueError:
        raise UserError(f"{MOST} = {os.environ[MOST]!r}: must be a whole number of cores") from None
