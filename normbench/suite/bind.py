"""Which content a task works on: one small JSON a task, so that a new dataset leaves the other tasks as they are.

A stage of DVC cannot name its dataset through its task; it depends on this file instead (docs/design.md).
"""

from __future__ import annotations

from normbench.models import registry as models
from normbench.system import files, layout
from normbench.system.errors import UserError


def bind() -> None:
    """Write, for every task of the suite, the path and fingerprint of its dataset and of its corrupted images."""
    suite = files.read_json(layout.RESOLVED / "suite.json")
    tasks = dict.fromkeys(suite["tasks"], "tasks") | dict.fromkeys(suite["gan_tasks"], "gan_tasks")
    with files.atomic_folder(layout.BOUND) as folder:
        for name, section in tasks.items():
            task = files.read_json(layout.RESOLVED / section / f"{name}.json")
            dataset = task["dataset"]
            meta = files.read_json(layout.DATA / dataset / "meta.json")
            unfit = models.get(task["model"]).size_problem(meta["image_size"])
            if unfit:
                raise UserError(f"{layout.PARAMS}: {section}.{name}.model = {task['model']!r}: {unfit}")
            kept = ("fingerprint", "classes", "channels", "image_size", "train", "test", "origin", "note")
            content = {key: meta[key] for key in kept}
            files.write_json(folder / f"{name}.json", {"name": dataset, "path": f"{layout.DATA / dataset}", **content})
            corrupted = {
                "path": f"{layout.CORRUPTED / dataset}",
                **files.read_json(layout.CORRUPTED / dataset / "meta.json"),
            }
            files.write_json(folder / f"{name}.corrupted.json", corrupted)
