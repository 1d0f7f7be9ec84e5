"""What waiting threads cost on a busy machine: steps of a small ResNet, with and without the limit on spinning.

Two threads, once alone and once beside a process that keeps one core busy; medians of processes run in turn.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

SPIN = {"limited (normbench)": "1000", "torch's default": None}
STEPS = """
import sys, time
import torch
from normbench.methods import registry as methods
from normbench.models import registry as models
torch.set_num_threads(2)
method = methods.build("batch_norm", {})
model = models.classifier("resnet8", {"width": 8}, method, 1, 10)
x = torch.randn(64, 1, 16, 16)
def step():
    model(x).square().mean().backward()
step(); step()
start = time.perf_counter()
for count in range(1, 21):
    step()
    if time.perf_counter() - start > 20:
        break
print((time.perf_counter() - start) / count * 1000)
"""


def milliseconds(spin: str | None) -> float:
    """Milliseconds a step in a fresh process; after 20 s it stops and takes the mean so far."""
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "GOMP_SPINCOUNT": spin or ""}
    if spin is None:
        environment["GOMP_SPINCOUNT"] = "300000"  # libgomp's own default where it is not set (manual, GOMP_SPINCOUNT)
    done = subprocess.run([sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    for busy in (False, True):
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        found: dict[str, list[float]] = {name: [] for name in SPIN}
        for _ in range(3):
            for name, spin in SPIN.items():
                found[name].append(milliseconds(spin))
        if other is not None:
            other.kill()
            other.wait()
        print("one core busy" if busy else "idle machine")
        for name, times in found.items():
            print(f"  {name:20} {statistics.median(times):8.1f} ms a step")


if __name__ == "__main__":
    main()
