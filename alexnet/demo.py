"""`alexnet demo`: the whole system in minutes on the built-in set, each step as one would call it oneself."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from alexnet import figures, recipes
from alexnet.config import StoreSettings, scaled
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.evaluation import Result, evaluate
from alexnet.train.loop import fit, resume
from alexnet.train.runlog import read_metrics
from alexnet.weights import load

STORED_PX = 128


def demo(out: str | Path, train: int = 3000, val: int = 500, epochs: int = 0) -> list[Result]:
    """Make the set, prepare it, train, test with centre and ten patches, draw curves and filters into `out`.

    Interrupted, it takes up where it was; finished, it is made anew. Returns the centre's and the ten patches' result.
    """
    out = Path(out)
    store, run = out / "store", out / "run"
    if (out / "done").exists():
        (out / "done").unlink()
        shutil.rmtree(store)
        shutil.rmtree(run)
    out.mkdir(parents=True, exist_ok=True)
    if not store.exists():
        print(f"1. {train + val} pictures of shapes, made and prepared: {store}")
        prepare(
            shapes.source(train, val), store, StoreSettings(size_px=STORED_PX, shard_images=1000)
        )
    config = recipes.demo()
    config = replace(
        config, data=str(store), schedule=scaled(config.schedule, epochs or config.schedule.epochs)
    )
    print(f"2. a small AlexNet, trained on {train} of them: {run}")
    if (run / "config.json").exists():
        resume(run)
    else:
        fit(config, run)
    print(f"3. tested on the other {val}")
    results = evaluate([run], store)
    print("4. what it learned")
    figures.filters(load(run).net).savefig(out / "filters.png")
    figures.curves([("demo", read_metrics(run, "epoch"))]).savefig(out / "curves.png")
    (out / "done").touch()
    return results


def report(results: list[Result], out: str | Path) -> str:
    """What a newcomer reads at the end."""
    chance = 1 - 1 / len(shapes.CLASSES)
    tests = "\n".join(
        f"  test error, {f'{r.patches} patches' if r.patches > 1 else 'centre patch'}: {r.top1_error:.1%}"
        for r in results
    )
    return (
        f"\n{tests}   (chance: {chance:.0%})\n"
        f"  figures: {out}/curves.png  {out}/filters.png\n\n"
        "Next, with pictures of your own in one folder a class:\n"
        "  alexnet prepare PICTURES stores/mine\n"
        "  alexnet train original --data stores/mine --out runs/mine\n"
        f"  alexnet predict {out}/run PICTURE...\n"
        "  alexnet summary original"
    )
