"""One self-contained page about a run: `alexnet report RUN` writes RUN/report.html."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet import figures, recipes
from alexnet.config import Config, Plateau, Schedule, StepSchedule
from alexnet.data.image import encode
from alexnet.device import auto_precision
from alexnet.errors import RunError
from alexnet.evaluation import (
    Mistake,
    OwnTest,
    Result,
    crops_name,
    own_test,
    same_answer,
    says_top5,
    worst_mistakes,
)
from alexnet.figures.answers import stored_image
from alexnet.figures.errors import MISTAKES
from alexnet.files import check_may_write, write_whole
from alexnet.look import left_out
from alexnet.program import command
from alexnet.provenance import describe
from alexnet.saved_config import to_dict
from alexnet.train.run_log import read_metrics
from alexnet.web_page import templates

PAIRS, PAIRS_WITHOUT_MATRIX = 10, 40
"""Most confused pairs in the table, below a confusion matrix and in place of one."""
BESIDE = 12
"""Most classes of a confusion matrix that has the table of pairs beside it."""
LONGEST_VALUE = 60
"""Characters of a setting in the table of those that differ from the recipe."""


def write(run: Path, test: OwnTest | None = None, out: Path | None = None) -> Path:
    """Test a run on its own store, and write `report.html` and `predictions.csv`.

    Args:
        run: Folder of the run.
        test: What `own_test` returned for the run, where it was called before.
        out: Folder of the two files; None: the run.

    Returns:
        The path of the page.

    Raises:
        RunError, DataError: The run is a file or has no checkpoint, or its store is not there any
            more.
        AlexNetError: There is no folder `out`.
    """
    if run.is_file():
        raise RunError(f"{run} is a file; a page has the curves of a run, so give its folder")
    path = (out or run) / "report.html"
    # Before the test, which may take minutes.
    check_may_write(path)
    test = test or own_test(run)
    write_whole(path.with_name("predictions.csv"), _predictions_csv(test))
    write_whole(path, page(run, test).encode())
    return path


def page(run: Path, test: OwnTest) -> str:
    """Return the page as HTML."""
    environment = templates(Path(__file__).parent)
    environment.filters["percent"] = _percent
    trained, config, names = test.trained, test.trained.config, test.trained.names
    result, splits = test.results[-1], test.store.manifest["splits"]
    has_matrix = len(names) <= figures.MOST_CLASSES
    epochs = read_metrics(run, "epoch")
    counts = np.bincount(test.split.labels, minlength=len(names))
    return environment.get_template("run_report.html.jinja").render(
        run=run,
        name=figures.run_names([run])[0],
        last_hidden=test.trained.net.plan[-2].layer.name,
        command=command,
        config=config,
        names=names,
        train_images=splits[config.train_split]["images"],
        val_images=len(test.split),
        own_images=config.train_split == config.val_split,
        store_changed=test.store.checksum != trained.about["store"],
        same_answer=same_answer(result, names),
        tests=[(crops_name(result), result, wilson(*_wrong(result))) for result in test.results],
        test_name=crops_name(result),
        top5=says_top5(result),
        left_out=left_out(test.store.manifest),
        uniform=1 - 1 / len(names),
        largest=names[int(counts.argmax())],
        as_large=int((counts == counts.max()).sum()),
        largest_error=1 - counts.max() / counts.sum(),
        steered=_steered(config.schedule),
        curves=figures.single_curves(run) if epochs else [],
        matrix=figures.confusion(result, names) if has_matrix else None,
        # Only a small matrix leaves room beside it.
        beside=len(names) <= BESIDE,
        pairs=confused_pairs(result, names, PAIRS if has_matrix else PAIRS_WITHOUT_MATRIX),
        mistakes=[
            (mistake, _inline_image(test, mistake)) for mistake in worst_mistakes(test, MISTAKES)
        ],
        class_errors=_class_errors(result, names),
        # A network may consist of fully connected layers.
        filters=figures.filters(trained.net) if trained.net.first_weight().dim() == 4 else None,
        changes=changed_settings(config),
        known_recipe=config.recipe in recipes.__all__,
        last=epochs[-1] if epochs else None,
        code=describe(trained.about.get("code")),
        torch=trained.about.get("torch", "not recorded"),
        machine=trained.about.get("machine", "not recorded"),
    )


def wilson(wrong: int, images: int) -> tuple[float, float]:
    """Return Wilson's interval for the share of wrong images, 95 %.

    The usual interval, share +- z * deviation, has length 0 where no image is wrong, and can reach
    below 0; this one does neither.
    """
    # Imported here, because it takes a second or two.
    from scipy.stats import binomtest

    interval = binomtest(wrong, images).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _wrong(result: Result) -> tuple[int, int]:
    """Return the number of wrong images, and of all images."""
    return round(result.top1_error * result.images), result.images


def confused_pairs(
    result: Result, names: Sequence[str], limit: int
) -> list[tuple[str, str, int, int]]:
    """Return the pairs of classes that are confused most often.

    Returns:
        (true class, predicted class, number of images, images of the true class), the most frequent
        pair first.
    """
    pairs = [
        (names[true], names[predicted], count, sum(row))
        for true, row in enumerate(result.confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:limit]


def _class_errors(result: Result, names: Sequence[str]) -> list[tuple[str, int, float | None]]:
    """Return name, images and error of each class, the highest error first.

    A class without images has no error, and comes last.
    """
    rows = [
        (name, sum(row), error)
        for name, row, error in zip(names, result.confusion, result.class_errors, strict=True)
    ]
    return sorted(rows, key=lambda row: -1.0 if row[2] is None else row[2], reverse=True)


def _steered(schedule: Schedule) -> str:
    """What the test images decided in a training; "" if nothing."""
    if isinstance(schedule, Plateau):
        return "the learning rate fell"
    if isinstance(schedule, StepSchedule) and schedule.until_error is not None:
        return "the training ended"
    return ""


def changed_settings(config: Config) -> list[tuple[str, str, str]]:
    """Return the settings that differ from the recipe: name, value, and the recipe's value.

    The store, the number of classes that follows from it, the device, and a precision that `auto`
    is on this device are left out.
    """
    if config.recipe not in recipes.__all__:
        return []
    ours = _flat(to_dict(config))
    theirs = _flat(to_dict(getattr(recipes, config.recipe)()))
    ignored = {"recipe", "data", "architecture.classes", "device"}
    if config.precision == auto_precision(config.device):
        ignored.add("precision")
    return [
        (name, _shown(ours.get(name)), _shown(theirs.get(name)))
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ignored and ours.get(name) != theirs.get(name)
    ]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return the plain values inside of a config's JSON form, by path: `sgd.lr`."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        # A layer by its name, since `layers.2` would have to be counted.
        items = {str(item.get("name", i)): item for i, item in enumerate(value)}.items()
    else:
        return {name: value}
    result: dict[str, Any] = {}
    for key, item in items:
        result |= _flat(item, f"{name}.{key}" if name else key)
    return result


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _predictions_csv(test: OwnTest) -> bytes:
    """Return a table of the validation images: name, true and predicted class, probability."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "true", "predicted", "probability"])
    names, best = test.trained.names, test.p.argmax(1)
    for index, (label, predicted) in enumerate(zip(test.split.labels, best, strict=True)):
        share = f"{test.p[index, predicted]:.4f}"
        table.writerow([test.split.name(index), names[label], names[predicted], share])
    # With a mark, without which spreadsheet programs take it for the code page of the system.
    return text.getvalue().encode("utf-8-sig")


def _inline_image(test: OwnTest, mistake: Mistake) -> str:
    """Return an image as the address of an <img>."""
    data = encode(stored_image(test.split, mistake.index), "jpeg", 85)
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _percent(share: float) -> str:
    # The space must not end a line.
    return f"{100 * share:.1f}\u00a0%"
