"""Shows in ten minutes what only a machine with a GPU can show of normbench; docs/gpu.md says what that is.

    PYTHONPATH=. python -m benchmarks.gpu [--out gpu.json] [--seconds 570] [--methods conv_norm ...]
        [--sections agreement waits ...]

The sections come in the order of their importance, each in a process of its own that is ended when its time is over, so
that an error or a crash of one, which may leave the GPU unusable for its process, does not lose the others. What a
section found before it ended counts. The last lines are a table with one row for each method and a line for everything
that does not hold; the exit code is 1 if there is such a line. DVC is not needed.

    python -m benchmarks.gpu --device cpu --small

runs all of it on a CPU in tiny sizes, to try the script.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normbench.system import threads

Row = dict[str, Any]
# By the name of the function in `gpu_sections`, the most seconds that a section may take.
SECTIONS = {
    "agreement": 120,
    "waits": 60,
    "speed": 150,
    "architectures": 120,
    "determinism": 60,
    "resume": 40,
    "gan": 60,
    "evaluation": 60,
    "processes": 80,
    "compiled": 300,
}
LEAST = 10.0  # seconds that must be left for a section to begin


def measure(section: str, arguments: argparse.Namespace, seconds: float) -> Row:
    """Runs a section in a process of its own; returns its `rows`, its `seconds` and why it ended early, or None."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows")
        command = [sys.executable, "-m", "benchmarks.gpu", "--device", arguments.device, "--section", section]
        command += ["--rows", str(file), *(["--small"] if arguments.small else [])]
        command += ["--methods", *arguments.methods] if arguments.methods else []
        start, why = time.perf_counter(), None
        # A session of its own, so that what it has started itself ends with it.
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
        try:
            _, said = child.communicate(timeout=seconds)
            if child.returncode:
                last = said.strip().splitlines()[-1:] or ["no message"]
                why = f"ended with {child.returncode}: {last[0]}"
        except subprocess.TimeoutExpired:
            why = f"was ended after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        lines = file.read_text().splitlines() if file.exists() else []
        rows = [json.loads(line) for line in lines]
    return {"seconds": time.perf_counter() - start, "why": why, "rows": rows}


def section(name: str, arguments: argparse.Namespace) -> None:
    """The work of a section's process: writes each row as a line of JSON."""
    from benchmarks import gpu_sections
    from normbench.methods import registry

    known = registry.names()
    names = tuple(arguments.methods or known)
    setting = gpu_sections.Setting(arguments.device, arguments.small, names)
    with open(arguments.rows, "w", encoding="utf-8") as file:
        for row in getattr(gpu_sections, name)(setting):
            file.write(json.dumps(row) + "\n")
            file.flush()


def machine(device: str) -> Row:
    """What the sections ran on."""
    import platform

    import torch

    found: Row = {"torch": torch.__version__, "python": platform.python_version(), "device": device}
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        found |= {
            "cudnn": torch.backends.cudnn.version(),
            "MiB": torch.cuda.get_device_properties(0).total_memory >> 20,
        }
    return found


# The columns of the table: title, section, conditions on the row, key of the number, format.
COLUMNS: tuple[tuple[str, str, Row, str, str], ...] = (
    ("layer f32", "agreement", {}, "layer float32", ".0e"),
    ("net f32", "agreement", {}, "network float32", ".0e"),
    ("net bf16", "agreement", {}, "network bfloat16", ".0e"),
    ("models", "architectures", {}, "logits", ".0e"),
    ("waits", "waits", {}, "waits", ""),
    ("f32/s", "speed", {"precision": "float32"}, "images/s", ",.0f"),
    ("time", "speed", {"precision": "float32"}, "time", ".2f"),
    ("bf16/s", "speed", {"precision": "bfloat16"}, "images/s", ",.0f"),
    ("time", "speed", {"precision": "bfloat16"}, "time", ".2f"),
    ("launched", "speed", {"precision": "bfloat16"}, "launched", ".2f"),
    ("memory", "speed", {"precision": "bfloat16"}, "memory", ".2f"),
    ("graphs", "compiled", {}, "gain", ".2f"),
    ("same", "determinism", {}, "as it is", ""),
    ("same, det.", "determinism", {}, "deterministic", ""),
    ("det. cost", "determinism", {}, "cost", ".2f"),
    ("resume", "resume", {}, "error", ".0e"),
    ("GAN ms", "gan", {}, "ms", ".1f"),
    ("GAN", "gan", {}, "error", ".0e"),
    ("eval", "evaluation", {}, "predictions", ".0e"),
    ("fold", "evaluation", {}, "folded", ".0e"),
)


def cell(value: Any, form: str) -> str:
    """A value of a row in the table: numbers by their format, lists by their length, no value as a dash."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return str(len(value))
        case _:
            return format(value, form)


def table(found: dict[str, Row]) -> list[str]:
    """The lines of the table: one for each method, then one for each number that belongs to none."""
    every = [row for each in found.values() for row in each["rows"]]
    shown = [column for column in COLUMNS if column[1] in found]
    lines = [" ".join([f"{'method':21}", *(f"{title:>{max(7, len(title))}}" for title, *_ in shown)])]
    for method in dict.fromkeys(row["method"] for row in every if "method" in row):
        cells = []
        for title, name, conditions, key, form in shown:
            wanted = {"method": method, **conditions}
            rows = [row for row in found[name]["rows"] if all(row.get(k) == v for k, v in wanted.items())]
            value = next((row[key] for row in rows if key in row), None)
            cells.append(f"{cell(value, form):>{max(7, len(title))}}")
        lines.append(" ".join([f"{method:21}", *cells]))
    for row in every:
        if "method" not in row:
            known = {key: value for key, value in row.items() if key != "problems"}
            lines.append(", ".join(f"{k} {v if isinstance(v, str | int) else f'{v:.3g}'}" for k, v in known.items()))
    return lines


def problems(found: dict[str, Row]) -> list[str]:
    """A line for everything that does not hold."""
    lines = []
    for name, each in found.items():
        lines += [f"{name}: {each['why']}"] if each["why"] else []
        lines += [
            f"{name}: {row.get('method', '')}: {line}" for row in each["rows"] for line in row.get("problems", [])
        ]
    return lines


def main(given: Sequence[str] | None = None) -> int:
    """Runs the sections, prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--out", type=Path, help="a file for everything that was found, as JSON")
    parser.add_argument("--seconds", type=float, default=570.0, help="the time for all sections together")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--methods", nargs="+", help="by default all of them")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    threads.set_environment()  # before torch is imported, here and in the processes
    if arguments.section:
        section(arguments.section, arguments)
        return 0
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: torch finds no CUDA GPU here; --device cpu --small tries the script", file=sys.stderr)
        return 2
    began, found = time.perf_counter(), dict[str, Row]()
    about = machine(arguments.device)
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    for name in [name for name in SECTIONS if name in arguments.sections]:
        left = arguments.seconds - (time.perf_counter() - began)
        if left < LEAST:
            found[name] = {"seconds": 0.0, "why": "no time was left", "rows": []}
        else:
            found[name] = measure(name, arguments, min(left, SECTIONS[name]))
        print(f"{name}: {len(found[name]['rows'])} rows in {found[name]['seconds']:.0f} s", flush=True)
        if arguments.out:
            content = {"machine": about, "sections": found, "problems": problems(found)}
            arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    bad = problems(found)
    print("\n".join(["", *table(found), "", *(bad or ["everything holds"])]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
