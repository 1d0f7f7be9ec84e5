"""The stages of dvc.yaml, one script each."""

import sys

from normbench.system import fork_client, threads
from normbench.system.text import show_traceback

threads.set_environment()  # before any stage imports torch or numpy
sys.excepthook = (
    show_traceback  # Here too, because an interrupt may come while a stage is imported, which takes seconds.
)
fork_client.hand_over()
