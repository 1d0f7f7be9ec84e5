"""The picture of an image under every corruption, for images of any height and width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from normbench.results.tables.contact_sheet import contact_sheet
from normbench.system import files


@pytest.mark.parametrize("size", [(8, 20), (20, 8), (8, 8)])
def test_every_image_is_whole_and_in_its_place(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width = size
    random = np.random.default_rng(0)
    clean = random.integers(0, 255, (3, height, width, 3), np.uint8)
    np.save(tmp_path / "test_images.npy", clean)
    made = {name: random.integers(0, 255, (2 * 3, height, width, 3), np.uint8) for name in ("fog", "frost")}
    for name, images in made.items():
        np.save(tmp_path / f"{name}.npy", images)
    files.write_json(tmp_path / "meta.json", {"names": ["fog", "frost"], "severities": [1, 5]})
    sheets = []
    drawn = Axes.imshow
    monkeypatch.setattr(Axes, "imshow", lambda axes, sheet, **rest: (sheets.append(sheet), drawn(axes, sheet, **rest)))
    contact_sheet(tmp_path, tmp_path, tmp_path / "sheet.png", index=1)
    assert (tmp_path / "sheet.png").stat().st_size > 0
    (sheet,) = sheets
    down, across = sheet.shape[0] // 2, sheet.shape[1] // 3
    assert (down, across) == (height + 1, width + 1)
    for row, name in enumerate(made):
        for column, image in enumerate((clean[1], made[name][1], made[name][4])):
            cell = sheet[row * down : (row + 1) * down, column * across : (column + 1) * across]
            np.testing.assert_array_equal(cell[:height, :width], image)
            assert (cell[height:] == 255).all()
            assert (cell[:, width:] == 255).all()
