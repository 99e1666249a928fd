"""One run of an experiment in a process of its own: `python -m alexnet.experiments.job FOLDER`.

FOLDER/wanted.json is the config; FOLDER/run becomes the run; FOLDER/result.json and predictions.npz say what it gave.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from alexnet.config import Config
from alexnet.configfile import from_dict
from alexnet.data.augment import Preprocess
from alexnet.data.loader import epoch_order
from alexnet.data.store import Store
from alexnet.evaluation import centre, predictions, score
from alexnet.experiments.effects import Done, steady_epochs
from alexnet.files import write_whole
from alexnet.kernels import colourfulness
from alexnet.train.loop import Interrupted, fit, resume
from alexnet.train.readings import NotFinite
from alexnet.train.runlog import read_metrics
from alexnet.weights import load

SEEN_PICTURES = 2000


def work(folder: Path) -> None:
    """Train, or go on, then test. A NaN is a result too: it says why there are no numbers."""
    config = from_dict(Config, json.loads((folder / "wanted.json").read_text()))
    run = folder / "run"
    try:
        if (run / "config.json").exists():
            resume(run)
        else:
            fit(config, run)
    except NotFinite as error:
        write_whole(folder / "result.json", json.dumps({"failed": str(error)}).encode())
        return
    write_whole(folder / "result.json", json.dumps(_tested(config, folder)).encode())


def _tested(config: Config, folder: Path) -> dict[str, Any]:
    run, store = folder / "run", Store(config.data)
    trained = load(run, device=config.device)
    nets: list[tuple[Any, Preprocess]] = [(trained.net, trained.preprocess)]
    split = store.split(config.val_split)
    every = np.arange(len(split))
    p, labels = predictions(nets, split, config.augment, every)
    alone = replace(trained.preprocess.augment, test_patches="centre")
    centre_p = (
        p if config.augment.test_patches == "centre" else predictions(nets, split, alone, every)[0]
    )
    train = store.split(config.train_split)
    seen = score(
        *predictions(
            nets, train, centre(config.augment), epoch_order(len(train), 0, 0)[:SEEN_PICTURES]
        ),
        1,
    )
    with (folder / "predictions.npz.partial").open("wb") as file:
        np.savez(file, probabilities=p, labels=labels)
    (folder / "predictions.npz.partial").replace(folder / "predictions.npz")
    epochs = read_metrics(run, "epoch")
    kept = "epoch", "train_loss", "train_error", "val_loss", "val_error"
    return {
        "test_error": score(p, labels, 1).top1_error,
        "centre_error": score(centre_p, labels, 1).top1_error,
        "train_error": seen.top1_error,
        "images_per_s": median(epoch["images_per_s"] for epoch in epochs),
        "rate": config.sgd.rate,
        "colour": colourfulness(trained.net),
        "epochs": [{name: epoch[name] for name in kept} for epoch in epochs],
    }


def read(folder: Path) -> Done | str | None:
    """What a finished job gave, why it gave nothing, or None where it has not finished."""
    path = folder / "result.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    if "failed" in found:
        return str(found["failed"])
    with np.load(folder / "predictions.npz") as kept:
        arrays = {name: kept[name] for name in ("probabilities", "labels")}
    config = from_dict(Config, json.loads((folder / "wanted.json").read_text()))
    return done(found, config, **arrays)


def done(found: dict[str, Any], config: Config, **arrays: Any) -> Done:
    """What a run gave, from its JSON form. arrays: probabilities and labels."""
    tuples = {"epochs": tuple(found["epochs"]), "colour": tuple(map(tuple, found["colour"]))}
    return Done(**{**found, **tuples}, **arrays, steady_epochs=steady_epochs(config.schedule))


if __name__ == "__main__":
    try:
        work(Path(sys.argv[1]))
    except Interrupted as stopped:
        sys.exit(128 + stopped.number)
