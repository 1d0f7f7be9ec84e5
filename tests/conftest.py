"""One thread for each test process: the tests run side by side, and small tensors gain nothing from more."""

from normbench.system import threads

threads.set_environment()  # before torch is imported; what the tests start inherits it

import torch  # noqa: E402

torch.set_num_threads(1)
