"""The stage `corrupt`: corrupted copies of the test images of one dataset."""

from __future__ import annotations

from pathlib import Path

from normbench.corruptions.files import write_corrupted
from normbench.corruptions.published import copy_published
from normbench.data import intact
from normbench.data.published_images import copy_image_files, folder_of
from normbench.suite import resolved
from normbench.suite.copies import describe, describe_published
from normbench.system import layout
from normbench.system.errors import UserError


def corrupt_intact(dataset: str) -> None:
    """Corrupts a dataset's test images, unless they are damaged."""
    check_intact(dataset)
    corrupt(dataset)


def check_intact(dataset: str) -> None:
    """Raises UserError, with the command that mends it, if a prepared dataset is damaged or missing."""
    folder = layout.DATA / dataset
    intact.check(folder, intact.meta(folder)["fingerprint"])


def corrupt(dataset: str) -> None:
    """Writes corrupted copies of a dataset's test images, or copies those of a published benchmark.

    If they are not to be stored, only what makes them is noted.
    """
    wanted = resolved.corruptions()
    source, target = layout.DATA / dataset, layout.CORRUPTED / dataset
    published = wanted.pop("source")
    wanted.pop("outside", None)  # it is there for DVC, which runs this stage again if the published files have changed
    references = wanted.pop("references", {})  # of the user's own corruptions, by name
    names = wanted["names"]
    wanted["names"] = [references.get(name, name) for name in names]
    given = wanted.pop("stored", None)
    stored = given if given is not None else "stream" not in intact.meta(source)
    if published is None:
        (write_corrupted if stored else describe)(source, target, **wanted)
    else:
        folder = Path(published.replace("{dataset}", dataset)).expanduser()
        in_files = any(folder_of(folder, name) for name in names) and not (folder / "labels.npy").exists()
        if given is False and not in_files:
            raise UserError(f"{layout.PARAMS}: corruptions.stored = False: {folder} has no image files, and is copied")
        copy = (copy_image_files if stored else describe_published) if in_files else copy_published
        copy(source, target, wanted["names"], wanted["severities"], folder)
