"""`alexnet look`: what a store contains, in words and in one figure, without writing into it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from alexnet.cli import main
from alexnet.config import StoreSettings
from alexnet.data.image import encode
from alexnet.data.manifest import sealed
from alexnet.data.prepare import prepare
from alexnet.data.sources import InHand, Item, Source, SourceSplit
from alexnet.data.store import Store
from alexnet.errors import DataError
from alexnet.look import look
from alexnet.terminal import printable
from tests.commands import refused


def store_of(folder: Path, counts: dict[str, list[int]]) -> Path:
    """Make a store with so many images of each class in each split; each class has its color."""

    def image(name: str, label: int, number: int) -> bytes:
        rgb = np.full((16, 16, 3), 9 * label % 256, np.uint8)
        rgb[0, 0] = number % 256, number // 256, len(name)  # no two images are equal
        return encode(rgb, "png")

    def split(name: str, per_class: list[int]) -> SourceSplit:
        items = [
            Item(f"{label}-{n}.png", label, InHand(image(name, label, n)))
            for label, count in enumerate(per_class)
            for n in range(count)
        ]
        return SourceSplit(name, len(items), lambda start: iter(items[start:]))

    classes = tuple(f"class {n:03d}" for n in range(len(counts["train"])))
    splits = tuple(split(name, per_class) for name, per_class in counts.items())
    prepare(Source("a test", classes, splits, notes=("a note",)), folder, StoreSettings())
    return folder


def shown(figure: Figure) -> str:
    """Return all text of a figure."""
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    return "\n".join([*texts, *(ax.get_title(loc="left") for ax in figure.axes)])


def test_look_prints_the_facts_and_draws_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store_of(tmp_path / "stores" / "mine", {"train": [9, 3], "val": [2, 2]})
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    monkeypatch.chdir(tmp_path)
    main(["look", str(folder)])
    output = capsys.readouterr().out.splitlines()
    assert output[:3] == [
        "classes     2",
        "train       12 images; smallest class class 001 (3), largest class 000 (9)",
        "val         4 images, 2 in each class",
    ]
    assert re.fullmatch(
        r"stored as   png, 16x16 pixels, \d+ bytes an image, \d+\.\d KiB in all", output[3]
    )
    assert output[4:] == [
        "mean color  red 2, green 2, blue 2 of 255",
        "made from   a test",
        "note        a note",
        "figure      mine-look.png",
    ]
    assert (tmp_path / "mine-look.png").stat().st_size > 10_000
    # Nothing appears in the store or beside it, which may be read only.
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    main(["look", f"file://{folder}", "--out", "other.png"])
    assert (tmp_path / "other.png").exists()


def test_figure_that_cannot_be_written_is_refused_before_the_store_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store_of(tmp_path / "store", {"train": [2, 2], "val": [1, 1]})
    monkeypatch.setattr("alexnet.look.look", None)
    for out, says in (
        ("a.txt", "a.txt has none of the suffixes"),
        ("no/a.png", "there is no folder"),
    ):
        assert says in refused(capsys, "look", folder, "--out", tmp_path / out)


def test_mosaic_has_a_row_of_images_of_each_class(tmp_path: Path) -> None:
    _, figure = look(Store(store_of(tmp_path / "store", {"train": [20, 3], "val": [1, 0]})))
    mosaic, balance = figure.axes[:2]
    sheet = np.asarray(mosaic.images[0].get_array())
    assert [label.get_text() for label in mosaic.get_yticklabels()] == ["class 000", "class 001"]
    # The middle of the tile in each row and column: the color of the class, or white without one.
    levels = sheet[48::100, 48::100, 0].tolist()
    assert levels == [[0] * 8, [9] * 3 + [255] * 5]
    assert [bar.get_width() for bar in balance.patches] == [20, 3, 1, 0]


@pytest.mark.parametrize(("classes", "bars"), [(24, 48), (200, 0)])
def test_many_classes_are_sampled_and_all_are_counted(
    classes: int, bars: int, tmp_path: Path
) -> None:
    counts = {"train": [1 + n % 3 for n in range(classes)], "val": [1] * classes}
    known, figure = look(Store(store_of(tmp_path / "store", counts)))
    mosaic, balance = figure.axes[:2]
    rows = [label.get_text() for label in mosaic.get_yticklabels()]
    assert (len(rows), rows[0], rows[-1]) == (10, "class 000", f"class {classes - 1:03d}")
    assert f"10 of {classes} classes, images of train" in shown(figure)
    assert dict(known)["classes"] == str(classes)
    # Above thirty classes a curve for each split takes the place of the bars.
    assert (len(balance.patches), len(balance.lines)) == (bars, 0 if bars else 2)


def test_hostile_text_of_a_store_does_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store_of(tmp_path / "store", {"train": [2, 2], "val": [1, 1]})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["source"] = "a\x1b[2Jb $x^2$ \n"
    manifest["splits"]["val"]["skipped"] = [["\x1b]0;c", "$\\frac"]]
    manifest["classes"][0] = "$\\undefined$ \x07"
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    main(["look", str(folder), "--out", str(tmp_path / "a.png")])
    output = capsys.readouterr().out
    assert "made from   a?[2Jb $x^2$ ?" in output
    assert "skipped     1 of val: ?]0;c ($\\frac)" in output
    assert printable(output.replace("\n", "")) == output.replace("\n", "")


@pytest.mark.parametrize(
    ("field", "value"), [("notes", [1]), ("source", 1), ("skipped", [["a"]]), ("encoding", [])]
)
def test_fields_of_another_form_are_refused(field: str, value: object, tmp_path: Path) -> None:
    folder = store_of(tmp_path / "store", {"train": [2, 2], "val": [1, 1]})
    manifest = json.loads((folder / "manifest.json").read_text())
    inside = {"skipped": manifest["splits"]["val"], "encoding": manifest["settings"]}
    inside.get(field, manifest)[field] = value
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    with pytest.raises(DataError, match=f"{field} is missing or not of the right form"):
        Store(folder)


def test_store_without_the_newer_fields_can_be_looked_at(tmp_path: Path) -> None:
    folder = store_of(tmp_path / "store", {"train": [2, 2], "val": [1, 1]})
    manifest = json.loads((folder / "manifest.json").read_text())
    for about in manifest["splits"].values():
        del about["extreme"], about["skipped"]
    del manifest["notes"], manifest["source"], manifest["settings"]["encoding"]
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    known, _ = look(Store(folder))
    assert dict(known)["made from"] == "unknown"
