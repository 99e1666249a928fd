"""Train a network on a folder of images with one subfolder for each class, and test it.

    python examples/train_on_a_folder.py IMAGES OUT --epochs 28

The images are prepared once (OUT/store), then the recipe `modern_small` is trained on them
(OUT/run). For the full-size network use `--recipe original`, which needs images of 256 pixels:
`--size-px 256`.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import alexnet
from alexnet import checkpoint
from alexnet.config import StoreSettings, scaled
from alexnet.data import sources
from alexnet.data.prepare import prepare
from alexnet.errors import AlexNetError
from alexnet.evaluation import crops_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="modern_small", choices=alexnet.recipes.__all__)
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=28)
    a = parser.parse_args()
    store, run = a.out / "store", a.out / "run"

    # A tenth of the images is held out for validation unless the folder has a split of its own.
    if not store.exists():
        prepare(sources.find(str(a.images)), store, StoreSettings(size_px=a.size_px))

    # A configuration is a frozen value: an experiment is one `replace` of a recipe.
    config = getattr(alexnet.recipes, a.recipe)()
    config = replace(config, data=str(store), schedule=scaled(config.schedule, a.epochs))
    if (run / "config.json").exists():
        # The run keeps its own recipe, epochs and store, whatever this call says.
        started = checkpoint.read_config(run)
        print(f"continuing {run}: {started.recipe}, {started.schedule.epochs} epochs")
        alexnet.resume(run)  # continues bit for bit where it was stopped
    else:
        alexnet.fit(config, run)

    for result in alexnet.evaluate([run], store):
        print(f"{crops_name(result)}: top-1 error {result.top1_error:.1%}")


if __name__ == "__main__":
    try:
        main()
    except AlexNetError as error:
        print(f"train_on_a_folder.py: {error}", file=sys.stderr)
        sys.exit(2)
