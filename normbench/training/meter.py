"""The losses of an epoch, collected on the device and read back without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


class Meter:
    """The loss and the number of correct predictions of every step of an epoch.

    steps: the number of steps in an epoch. On CUDA, `read` starts an asynchronous copy into pinned memory and returns
    what earlier copies have delivered, so that the host can run ahead of the device. On other devices it returns the
    losses of all steps so far.
    """

    def __init__(self, steps: int, device: torch.device):
        self.values = torch.zeros(2, steps, device=device)
        self.host = torch.zeros(2, steps, pin_memory=device.type == "cuda")
        self.arrived: torch.cuda.Event | None = None
        self.steps = self.sent = self.known = 0

    def reset(self) -> None:
        """Forgets all steps, at the start of an epoch."""
        self.arrived, self.steps, self.sent, self.known = None, 0, 0, 0

    def add(self, loss: Tensor, right: Tensor) -> None:
        """Stores the loss and the number of correct predictions of the next step, both 0-d tensors on the device."""
        torch.stack([loss.float(), right.float()], out=self.values[:, self.steps])
        self.steps += 1

    def read(self, wait: bool) -> list[float]:
        """The losses of this epoch that have reached the host. wait: wait for the device and return all of them."""
        if not self.values.is_cuda:
            self.host.copy_(self.values)
            self.known = self.steps
        else:
            if self.arrived is not None and self.arrived.query():
                self.arrived, self.known = None, self.sent
            if self.arrived is None or wait:
                self.host.copy_(self.values, non_blocking=True)
                self.arrived, self.sent = torch.cuda.Event(), self.steps
                self.arrived.record()
            if wait:
                self.arrived.synchronize()
                self.arrived, self.known = None, self.sent
        return self.host[0, : self.known].tolist()

    def right(self) -> int:
        """The number of correct predictions in the steps that have been read."""
        return round(self.host[1, : self.known].double().sum().item())

    def state(self) -> Tensor:
        """The losses and the numbers of correct predictions so far, (2, steps), on the CPU. Waits for the device."""
        return self.values[:, : self.steps].cpu()

    def load(self, state: Tensor) -> None:
        """Restores what `state` returned."""
        self.reset()
        self.steps = state.shape[1]
        self.values[:, : self.steps] = state.to(self.values)
