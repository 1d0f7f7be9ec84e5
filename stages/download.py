"""Writes the arrays of one dataset to build/data/NAME/: `python -m stages.download --dataset NAME`."""

from normbench.data.prepare import prepare
from normbench.suite import resolved
from normbench.system import files, layout, stage
from normbench.system.size import sides
from normbench.system.text import say


def download(dataset: str) -> None:
    """Fetches a dataset, checks it and writes its arrays to build/data/NAME/."""
    spec = resolved.dataset(dataset)
    with files.atomic_folder(layout.DATA / dataset) as out:
        prepare(spec, out)
        facts = files.read_json(out / "meta.json")
    size = "x".join(map(str, (*sides(facts["image_size"]), facts["channels"])))
    say(f"{dataset}: {facts['train']} + {facts['test']} images of {size} in {facts['classes']} classes")


if __name__ == "__main__":
    stage.run(download, "dataset")
