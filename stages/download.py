"""Writes the arrays of one dataset to build/data/NAME/: `python -m stages.download --dataset NAME`."""

from normbench.data.prepare import prepare
from normbench.system import files, layout, stage
from normbench.system.errors import UserError, hint
from normbench.system.size import sides
from normbench.system.text import say


def download(dataset: str) -> None:
    """Fetches a dataset, checks it and writes its arrays to build/data/NAME/."""
    resolved = layout.RESOLVED / "datasets"
    spec = resolved / f"{dataset}.json"
    if not spec.is_file():
        raise UserError(f"{spec}: no such dataset; {hint(dataset, (path.stem for path in resolved.glob('*.json')))}")
    with files.atomic_folder(layout.DATA / dataset) as out:
        prepare(files.read_json(spec), out)
        facts = files.read_json(out / "meta.json")
    size = "x".join(map(str, (*sides(facts["image_size"]), facts["channels"])))
    say(f"{dataset}: {facts['train']} + {facts['test']} images of {size} in {facts['classes']} classes")


if __name__ == "__main__":
    stage.run(download, "dataset")
