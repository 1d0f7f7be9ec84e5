"""One thread and one core for each test process: the tests run side by side, and small tensors gain from no more."""

import os

from normbench.system import threads

threads.set_environment()  # before torch is imported; what the tests start inherits it

os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # so that what a test calls is called in its own process

import torch  # noqa: E402  # the variables come first

torch.set_num_threads(1)
