"""Several processes of a test that train together, joined by gloo, each forked from the test."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from normbench.system import ranks

PATIENCE = 300  # seconds


def each_of(count: int, function: Callable[[], Any]) -> list[Any]:
    """What a function returns in each of `count` processes that can exchange tensors, in the order of their ranks.

    Raises the error, as its text, of the first process that fails.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ends, processes = [], []
    for rank in range(count):
        here, there = context.Pipe(duplex=False)
        processes.append(context.Process(target=_call, args=(rank, count, port, function, there)))
        processes[-1].start()
        there.close()
        ends.append(here)
    found = []
    for end in ends:
        assert end.poll(PATIENCE), "a process does not answer"
        found.append(pickle.loads(end.recv_bytes()))
    for process in processes:
        process.join()
    failed = [value for good, value in found if not good]
    if failed:
        raise RuntimeError(failed[0])
    return [value for _, value in found]


def _call(rank: int, count: int, port: int, function: Callable[[], Any], pipe: Connection) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    answer: tuple[bool, Any]
    try:
        with ranks.together("cpu"):
            answer = True, function()
    except SystemExit as error:
        answer = True, error
    except BaseException as error:
        answer = False, str(error) or traceback.format_exc()
    pipe.send_bytes(pickle.dumps(answer))  # by itself, `send` would share the memory of tensors, which ends with this
