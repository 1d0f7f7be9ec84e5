"""Writes the corrupted test images of one dataset: `python -m stages.corrupt --dataset NAME`."""

from pathlib import Path

from normbench.corruptions.files import copy_published, write_corrupted
from normbench.system import layout
from normbench.system.files import read_json
from normbench.system.stage import run


def corrupt(dataset: str) -> None:
    """Writes corrupted copies of a dataset's test images, or copies those of a published benchmark."""
    wanted = read_json(layout.RESOLVED / "corruptions.json")
    source, target = layout.DATA / dataset, layout.CORRUPTED / dataset
    published = wanted.pop("source")
    references = wanted.pop("references", {})  # of the user's own corruptions, by name
    wanted["names"] = [references.get(name, name) for name in wanted["names"]]
    if published is None:
        write_corrupted(source, target, **wanted)
    else:
        folder = Path(published.replace("{dataset}", dataset)).expanduser()
        copy_published(source, target, wanted["names"], wanted["severities"], folder)


if __name__ == "__main__":
    run(corrupt, "dataset")
