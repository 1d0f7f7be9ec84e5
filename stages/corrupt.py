"""Corrupts the test images of one dataset: `python -m stages.corrupt --dataset NAME`."""

from normbench import layout
from normbench.corruptions.files import write_corrupted
from normbench.files import read_json
from normbench.stage import run


def corrupt(dataset: str) -> None:
    """Writes the corrupted copies of a dataset's test images."""
    wanted = read_json(layout.RESOLVED / "corruptions.json")
    source, target = layout.DATA / dataset, layout.CORRUPTED / dataset
    write_corrupted(source, target, wanted["names"], wanted["severities"], wanted["seed"])


if __name__ == "__main__":
    run(corrupt, "dataset")
