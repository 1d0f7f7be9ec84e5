"""The losses of an epoch, kept on the device and read from there without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


class Meter:
    """Loss and number of right answers of every step of an epoch.

    On CUDA `read` starts a copy into pinned memory and returns what the copies before it have brought, so that the host
    can go on ahead of the device; elsewhere it returns everything.
    """

    def __init__(self, steps: int, device: torch.device):
        self.values = torch.zeros(2, steps, device=device)
        self.host = torch.zeros(2, steps, pin_memory=device.type == "cuda")
        self.arrived: torch.cuda.Event | None = None
        self.steps = self.sent = self.known = 0

    def reset(self) -> None:
        self.arrived, self.steps, self.sent, self.known = None, 0, 0, 0

    def add(self, loss: Tensor, right: Tensor) -> None:
        """Of the next step, both 0-d on the device."""
        torch.stack([loss.float(), right.float()], out=self.values[:, self.steps])
        self.steps += 1

    def read(self, wait: bool) -> list[float]:
        """The losses of the epoch that have arrived on the host; all of them where it waits for the device."""
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
        """Right answers among the steps that have been read."""
        return round(self.host[1, : self.known].double().sum().item())

    def state(self) -> Tensor:
        """(2, steps so far), on the CPU; waits for the device."""
        return self.values[:, : self.steps].cpu()

    def load(self, state: Tensor) -> None:
        self.reset()
        self.steps = state.shape[1]
        self.values[:, : self.steps] = state.to(self.values)
