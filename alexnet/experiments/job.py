"""One run of an experiment in a process of its own: `python -m alexnet.experiments.job FOLDER`.

FOLDER/wanted.json is the configuration and FOLDER/run becomes the run. The result is written to
FOLDER/result.json and FOLDER/predictions.npz.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from alexnet import checkpoint
from alexnet.config import Config
from alexnet.data.loader import epoch_order
from alexnet.data.preprocess import Preprocess
from alexnet.data.storage import StoreLost
from alexnet.data.store import Store
from alexnet.diagnostics import colourfulness
from alexnet.errors import AlexNetError, RunError
from alexnet.evaluation import centre, num_crops, predictions, says_top5, score
from alexnet.experiments.measures import RunResult
from alexnet.files import replacing, write_whole
from alexnet.saved_config import from_dict
from alexnet.train.endings import Interrupted, NotFinite
from alexnet.train.run_log import read_metrics
from alexnet.train.start import fit, resume
from alexnet.trained import load

CONFIG_FILE = "wanted.json"
"""Its name may not change: folders of earlier runs are read again."""
PREDICTIONS = "predictions.npz"
TRAIN_IMAGES = 2000
"""Training images on which the training error is measured."""


def work(folder: Path) -> None:
    """Train or resume the run, then test it.

    A loss that is not finite is a result too: result.json then holds the reason.
    """
    config = from_dict(Config, json.loads((folder / CONFIG_FILE).read_text()))
    run = folder / "run"
    try:
        # An earlier process may have been stopped or killed in the middle of the run.
        if (run / "config.json").exists():
            # The same store may have another name than when the run began.
            saved = checkpoint.read_config(run)
            if saved.data != config.data:
                checkpoint.write_config(run, replace(saved, data=config.data))
            resume(run)
        else:
            fit(config, run)
    except NotFinite as error:
        write_whole(folder / "result.json", json.dumps({"failed": error.what}).encode())
        return
    write_whole(folder / "result.json", json.dumps(_test(config, folder)).encode())


def _test(config: Config, folder: Path) -> dict[str, Any]:
    """Test the run, write its predictions, and return the rest of the result as JSON values."""
    run, store = folder / "run", Store(config.data)
    trained = load(run, device=config.device)
    nets: list[tuple[Any, Preprocess]] = [(trained.net, trained.preprocess)]
    split = store.split(config.val_split)
    indices = np.arange(len(split))
    p, labels = predictions(nets, split, config.augment, indices)
    single_crop = centre(config.augment)
    # If the recipe's own test is the center crop, `p` is this already.
    centre_p = (
        p
        if num_crops(trained.preprocess) == 1
        else predictions(nets, split, single_crop, indices)[0]
    )
    train = store.split(config.train_split)
    # A sample in the order of an epoch: the store may have its images sorted by class.
    on_train = score(
        *predictions(nets, train, single_crop, epoch_order(len(train), 0, 0)[:TRAIN_IMAGES]), 1
    )
    # Before result.json is written: a folder with result.json is whole.
    with replacing(folder / PREDICTIONS) as file:
        np.savez(file, probabilities=p, labels=labels)
    epochs = read_metrics(run, "epoch")
    names = "epoch", "train_loss", "train_error", "val_loss", "val_error"
    on_test = score(p, labels, 1)
    about = checkpoint.read(run).about
    computed = {name: about["config"][name] for name in ("device", "precision")}
    # Earlier versions have left out the number of threads.
    keys = "code", "torch", "machine", "threads"
    made_by = {key: about[key] for key in keys if key in about}
    made_by["instructions"] = torch.backends.cpu.get_cpu_capability()
    return {
        "test_error": on_test.top1_error,
        "top5_error": on_test.top5_error if says_top5(on_test) else None,
        "centre_error": score(centre_p, labels, 1).top1_error,
        "train_error": on_train.top1_error,
        "images_per_s": median(epoch["images_per_s"] for epoch in epochs),
        "rate": config.sgd.lr,
        "colour": colourfulness(trained.net),
        "products": about["products"],
        "origin": made_by | computed,
        "epochs": [{name: epoch[name] for name in names} for epoch in epochs],
    }


def read(folder: Path) -> RunResult | str | None:
    """The result of a run, the reason why it has no numbers, or None if it is not finished.

    Raises RunError if the file cannot be read.
    """
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
        if "failed" in data:
            return str(data["failed"])
        config = from_dict(Config, json.loads((folder / CONFIG_FILE).read_text()))
        return RunResult.from_json(data, config, folder / PREDICTIONS)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged or of another version ({error!r}); remove it, and the same command "
            "tests the run again"
        ) from None


def main(folder: Path) -> None:
    """Run the process of a run: its exit code is not 0 for one that was stopped or has failed."""
    try:
        work(folder)
    except Interrupted as stopped:
        sys.exit(128 + stopped.number)
    except StoreLost as error:
        print(error, file=sys.stderr, flush=True)
        # Not sys.exit, which joins the threads that decode: they may wait for the store for ever.
        os._exit(2)
    except AlexNetError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
