"""The side of a stage on which it is run by a process that has imported everything (see `fork_server`).

It runs before a stage imports anything, so it imports little itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from normbench.system import preemption
from normbench.system.text import complain

SERVER = "NORMBENCH_FORK_SERVER"  # the path of the server's socket
# Variables that say nothing to what a server has imported. A forked stage has those of its client. A shell, through
# which DVC starts stages, sets some of them anew and drops its prompts, which an activated virtual environment exports.
PASSED_ON = {SERVER, preemption.ENDS_WITH, "PATH", "PWD", "OLDPWD", "SHLVL", "_", "PS1", "PS2"}
OF_DVC = "DVC_"
LOST = "the process that ran this stage has ended; the same command goes on"
FORWARDED = (signal.SIGINT, signal.SIGTERM, *(() if sys.platform == "win32" else (signal.SIGHUP, signal.SIGQUIT)))
PATIENCE = 60.0  # seconds in which a server answers
YES, NO = b"yes", b"no"


def surroundings() -> dict[str, Any]:
    """Returns, in types of JSON, what a process must share with another that works in its place."""
    import resource

    limits = [getattr(resource, name) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")]
    os.umask(mask := os.umask(0o077))
    return {
        "package": str(Path(__file__).resolve().parents[1]),
        "folder": os.getcwd(),
        "python": [
            os.path.realpath(sys.executable),
            sys.prefix,
            sys.version,
            list(sys.flags),
            sys.warnoptions,
            dict(sys._xoptions),
        ],
        "user": [os.getuid(), os.geteuid(), os.getgid(), os.getegid()],
        "process": [mask, os.nice(0), sorted(os.sched_getaffinity(0)), [resource.getrlimit(each) for each in limits]],
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name not in PASSED_ON and not name.startswith(OF_DVC)
        },
    }


def hand_over() -> None:
    """To be called first by `python -m stages.NAME ...`: lets a server run the stage, if there is one.

    Then this process only waits, passes on its signals, and exits as the stage does. It returns, so that the stage runs
    in this process, if no server is named, or if it does not answer or cannot run this stage.
    """
    place = os.environ.get(SERVER)
    option, module, *arguments = [*sys.orig_argv[1:], "", ""]
    if not place or sys.platform != "linux" or option != "-m" or not module.startswith("stages."):
        return
    request = {
        "module": module,
        "arguments": arguments[:-2],
        "environment": dict(os.environ),
        "surroundings": surroundings(),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        try:
            server.settimeout(PATIENCE)
            server.connect(place)
            socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
            if server.recv(len(YES)) != YES:
                return
            server.settimeout(None)
        except OSError:
            return
        for number in FORWARDED:
            signal.signal(number, lambda number, frame: _tell(server, number))
        try:
            answer = server.recv(32)
        except OSError:
            answer = b""
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
    if not answer:
        complain(LOST)
        raise SystemExit(preemption.EXIT_CODE)
    code = int(answer)
    if code < 0:
        os.kill(os.getpid(), -code)  # as the stage was
    raise SystemExit(code if code >= 0 else 128 - code)


def _tell(server: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # The stage has ended, and so will this process.
        server.send(str(number).encode())
