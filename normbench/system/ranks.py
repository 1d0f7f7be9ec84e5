"""Several processes that train one run together, as torchrun starts them (`torch.distributed`).

Each has a rank from 0. The first alone reads and writes files; the others follow it. Within one machine each takes a
GPU of its own; on a CPU they share the cores.
"""

from __future__ import annotations

import datetime
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from normbench.system import preemption
from normbench.system.errors import UserError

WANTED = "NORMBENCH_RANKS"  # how many processes a training stage starts for each run
# A rank may wait for the first one while that scores a run of before, or reads images.
PATIENCE = datetime.timedelta(hours=12)
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # which torchrun sets for each process
LOOK = 0.2  # seconds between two looks at the processes
GRACE = 30.0  # seconds that the others have to end when one has failed


def rank() -> int:
    """The rank of this process; 0 if there is no other."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def size() -> int:
    """The number of processes that train a run together, as torchrun has started them; 1 if it has not."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in VARIABLES) else 1


def beside() -> int:
    """How many of these processes are on this machine, this one included."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size())) if size() > 1 else 1


def wanted() -> int:
    """The number of processes for each run that NORMBENCH_RANKS asks for; 1 without it.

    Raises UserError if that is no whole number of at least 1.
    """
    text = os.environ.get(WANTED, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{WANTED} = {text!r}: must be a number of processes, e.g. 2")
    return int(text)


def started(module: str, *arguments: str) -> bool:
    """Executes a Python module in as many processes as NORMBENCH_RANKS asks for, and waits for them.

    Returns False, having done nothing, if that is one or if this is one of several processes. If one fails, the others
    are ended. SIGTERM is passed on to them. Exits with 75 if one was interrupted, and with 1 if one failed.
    """
    count = wanted()
    if count == 1 or size() > 1:
        return False
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    common |= {preemption.ENDS_WITH: str(os.getpid())}
    running: list[subprocess.Popen[bytes]] = []
    codes: list[int] = []
    try:
        with preemption.saved():
            for each in range(count):
                own = os.environ | common | {"RANK": str(each), "LOCAL_RANK": str(each)}
                running.append(subprocess.Popen([sys.executable, "-m", module, *arguments], env=own))
            while len(codes) < count and not any(codes):
                time.sleep(LOOK)
                if preemption.requested():
                    break
                codes = [code for process in running if (code := process.poll()) is not None]
    finally:
        for process in running:
            process.terminate()
        failed = any(code not in (0, preemption.EXIT_CODE) for code in codes)
        codes = [_end_of(process, GRACE if failed else None) for process in running]
    if any(codes):
        raise SystemExit(preemption.EXIT_CODE if preemption.EXIT_CODE in codes else 1)
    return True


def _end_of(process: subprocess.Popen[bytes], grace: float | None) -> int:
    """The exit code of a process that has been told to end, and is killed after `grace` seconds."""
    try:
        return process.wait(grace)
    except subprocess.TimeoutExpired:  # It waits for one that has failed.
        process.kill()
        return process.wait()


@contextmanager
def together(device: str) -> Iterator[None]:
    """A context in which the processes can exchange tensors, by NCCL between GPUs and by gloo elsewhere.

    device: its kind. Does nothing for one process. Raises UserError if there are fewer GPUs than processes here.
    """
    if size() == 1:
        yield
        return
    import torch
    from torch import distributed

    if device == "cuda":
        local, here = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= here:
            raise UserError(f"{size()} processes, but {here} GPUs: each process needs a GPU of its own")
        torch.cuda.set_device(local)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def same(value: Any) -> Any:
    """The value that the first process has given. A value must not be from elsewhere: it is pickled."""
    if size() == 1:
        return value
    import torch
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, 0, device=torch.device("cpu"))
    return box[0]


def first_only(action: Callable[[], Any]) -> Any:
    """What `action` returns in the first process, for all. If it ends that process, it ends the others too."""
    if size() == 1:
        return action()
    found: Any = None
    problem: BaseException | None = None
    if rank() == 0:
        try:
            found = action()
        except BaseException as error:
            problem = error
    ended, found = same((problem is not None, found))
    if problem is not None:
        raise problem
    if ended:
        raise SystemExit(preemption.EXIT_CODE)
    return found


def any_of(value: bool) -> bool:
    """Whether the value is true in any of the processes."""
    if size() == 1:
        return value
    import torch
    from torch import distributed

    flag = torch.tensor(float(value))
    distributed.all_reduce(flag)
    return bool(flag > 0)
