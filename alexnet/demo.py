"""`alexnet demo`: the whole system in minutes, on a built-in data set.

Each step is a call that a user would make too.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from alexnet import figures, recipes
from alexnet.config import StoreSettings, scaled
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.evaluation import Result, evaluate
from alexnet.program import command
from alexnet.train.loop import fit, resume
from alexnet.trained import load

# The recipe `demo` sees 112 of these, in the proportion of the paper's 224 to 256.
STORED_PX = 128


def demo(out: str | Path, train: int = 3000, val: int = 500, epochs: int = 0) -> list[Result]:
    """Make a data set, prepare it, train a network, test it, and draw its curves and filters.

    An interrupted demo continues where it stopped; a finished one starts again from nothing.

    Args:
        out: Folder of all output.
        train: Number of training images.
        val: Number of test images.
        epochs: Number of epochs; 0: the number in the recipe.

    Returns:
        The results with the center crop and with ten crops.
    """
    out = Path(out)
    store, run = out / "store", out / "run"
    # `done` is removed first, so that a demo killed between these lines is not taken for finished.
    if (out / "done").exists():
        (out / "done").unlink()
        shutil.rmtree(store)
        shutil.rmtree(run)
    out.mkdir(parents=True, exist_ok=True)
    # `prepare` gives a store its name when it is complete, so a store that exists is complete.
    if not store.exists():
        print(f"1. {train + val} images of shapes, generated and prepared: {store}")
        prepare(
            shapes.source(train, val), store, StoreSettings(size_px=STORED_PX, shard_images=1000)
        )
    config = recipes.demo()
    config = replace(
        config, data=str(store), schedule=scaled(config.schedule, epochs or config.schedule.epochs)
    )
    print(f"2. a small AlexNet, trained on {train} of them: {run}")
    # A run that was killed before its first checkpoint has a config, and begins again.
    if (run / "config.json").exists():
        resume(run)
    else:
        fit(config, run)
    print(f"3. tested on the other {val}")
    results = evaluate([run], store)
    print("4. what it learned")
    figures.filters(load(run).net).savefig(out / "filters.png")
    figures.curves([run]).savefig(out / "curves.png")
    (out / "done").touch()
    return results


def report(results: list[Result], out: str | Path) -> str:
    """The text that the demo ends with: test errors, figures, and commands to try next."""
    chance = 1 - 1 / len(shapes.CLASSES)
    tests = "\n".join(
        f"  test error, {'centre crop' if r.patches == 1 else f'{r.patches} crops'}: "
        f"{r.top1_error:.1%}"
        for r in results
    )
    return (
        f"\n{tests}   (chance: {chance:.0%})\n"
        f"  figures: {out}/curves.png  {out}/filters.png\n\n"
        "Next, with your own images, one folder for each class:\n"
        f"  {command('prepare', 'IMAGES', 'stores/mine')}\n"
        f"  {command('train', 'original', '--data', 'stores/mine', '--out', 'runs/mine')}\n"
        f"  {command('predict', f'{out}/run', 'IMAGE...')}\n"
        f"  {command('summary', 'original')}"
    )
