"""`alexnet demo`: the whole system in minutes, on a built-in data set.

Each step is a call that a user would make too.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from importlib import util
from pathlib import Path

from alexnet import figures, recipes
from alexnet.checkpoint import read_config
from alexnet.config import Config, StoreSettings, scaled
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.data.store import Store
from alexnet.data.store_folder import StoreFolder
from alexnet.errors import RunError
from alexnet.evaluation import Result, crops_name, evaluate
from alexnet.explorer import page, runtime
from alexnet.files import parse_json, write_whole
from alexnet.program import command
from alexnet.saved_config import from_dict
from alexnet.train.folder import LOCK_FILE, check_empty, run_lock
from alexnet.train.start import fit, resume
from alexnet.trained import load

# The recipe `demo` sees 112 of these, in the proportion of the paper's 224 to 256.
STORED_PX = 128
FIGURES = "curves.png", "filters.png"
PAGE = "explore.html"
PAGE_IMAGES, PAGE_UNITS = 200, 8
"""What the page has of the store, and of each layer; more would take longer than the training."""
# 28 epochs at the speed of docs/performance.md, "Beside other programs", with the validation.
IDLE_TIME = "about 4 minutes on two idle cores of an AMD EPYC (family 25)"


def demo(
    out: str | Path, train: int = 3000, val: int = 500, epochs: int = 0, force: bool = False
) -> list[Result]:
    """Make a data set, prepare it, train a network, test it, and draw its curves and filters.

    An interrupted demo continues where it stopped. Of a finished one nothing is made again, and its
    results are returned.

    Args:
        out: Folder of all output.
        train: Number of training images.
        val: Number of test images.
        epochs: Number of epochs; 0: the number in the recipe.
        force: Whether an earlier demo is removed first.

    Returns:
        The results with the center crop and with ten crops.

    Raises:
        ConfigError: There cannot be so many epochs.
        ValueError: There cannot be so many images.
        RunError: The folder holds other files than those of a demo, or another store; or `force` is
            set, and it holds another run; or a demo with other numbers was begun there.
        BusyError: Another process is making this demo.
    """
    out = Path(out)
    store, run, marker = out / "store", out / "run", out / "done"
    _check_begun_or_empty(out)
    config = recipes.demo()
    # Wrong numbers are found before anything is removed or made.
    source = shapes.source(train, val)
    config = replace(
        config, data=str(store), schedule=scaled(config.schedule, epochs or config.schedule.epochs)
    )
    if force:
        _remove(out)
    if marker.is_file() and all((out / name).is_file() for name in _products()):
        options = _options(*_numbers(out, config))
        print(f"{out} is finished ({options}) and was not made again; to remake it, add --force")
        return _saved_results(out)
    marker.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    # `prepare` gives a store its name when it is complete, so a store that exists is complete.
    if not store.exists():
        print(f"1. generating and preparing {train + val} images of shapes: {store}", flush=True)
        prepare(source, store, StoreSettings(size_px=STORED_PX, shard_images=1000))
    _check_store(store)
    time = "" if epochs or train != 3000 else f" ({IDLE_TIME})"
    _check_numbers(out, config, train, val)
    print(f"2. a small AlexNet, trained on {train} of them: {run}{time}", flush=True)
    # A run that was killed before its first checkpoint has a config, and begins again.
    if (run / "config.json").exists():
        resume(run)
    else:
        fit(config, run)
    print(f"3. tested on the other {val}")
    results = evaluate([run], store)
    print("4. what it learned")
    figures.save(figures.filters(load(run).net), out / "filters.png")
    figures.save(figures.curves([run]), out / "curves.png")
    _write_results(out, results)
    # It is not a product: without the files from npm, or the package onnx, the demo is complete.
    if runtime.is_cached() and util.find_spec("onnx"):
        _write_page(run, store, out)
    return results


def _write_page(run: Path, store: Path, out: Path) -> None:
    """Write the page that runs the network."""
    print(f"5. a page that runs it in a browser, in some minutes: {out / PAGE}", flush=True)
    trained = load(run, device="cpu")
    split = Store(store).split(trained.config.val_split)
    ort = runtime.read(None, _page_command(out))
    page.write(trained, split, run, out / PAGE, ort, PAGE_IMAGES, PAGE_UNITS)


def _page_command(out: Path) -> str:
    """The command that makes the page, after fetching what it needs."""
    return command("explore", out / "run", "--out", out / PAGE, "--fetch")


def _products() -> tuple[str, ...]:
    """What a finished demo has, relative to its folder."""
    return "store/manifest.json", "run/last.safetensors", *FIGURES


def _write_results(out: Path, results: list[Result]) -> None:
    """Mark a demo as finished."""
    write_whole(out / "done", json.dumps([result.to_dict() for result in results]).encode())


def _saved_results(out: Path) -> list[Result]:
    """Read the results of a finished demo."""
    try:
        saved = parse_json((out / "done").read_bytes())
        return [from_dict(Result, result, f"{out}/done") for result in saved]
    # Version 0.2 wrote an empty file.
    except ValueError:
        results = evaluate([out / "run"], out / "store")
        _write_results(out, results)
        return results


def _check_begun_or_empty(out: Path) -> None:
    """Raise RunError if a folder has files, and no demo was begun in it."""
    begun = any((out / name).exists() for name in ("store", "store.partial", "run", "done"))
    if not begun and out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise RunError(f"{out} holds files that are not of a demo; choose another --out")


def _check_store(store: Path) -> None:
    """Raise RunError if a store is not made from the built-in data set."""
    if Store(store).manifest["source"] != shapes.source(1, 1).description:
        raise RunError(f"{store} is not the demo's store; choose another --out")


def _numbers(out: Path, config: Config) -> tuple[int, int, int]:
    """The numbers of training images, test images and epochs with which a demo was begun.

    Without a run yet, the number of epochs is that of `config`.
    """
    store, begun = Store(out / "store"), out / "run"
    schedule = read_config(begun).schedule if (begun / "config.json").exists() else config.schedule
    return store.num_images("train"), store.num_images("val"), schedule.epochs


def _options(train: int, val: int, epochs: int) -> str:
    return f"--train {train} --val {val} --epochs {epochs}"


def _check_numbers(out: Path, config: Config, train: int, val: int) -> None:
    """Raise RunError if the demo in `out` was begun with other numbers of images or epochs."""
    begun = _numbers(out, config)
    if begun != (train, val, config.schedule.epochs):
        raise RunError(
            f"the demo in {out} was begun with {_options(*begun)}; go on with these, or begin "
            "again with --force"
        )


def _remove(out: Path) -> None:
    """Remove the results, the store and the run of a demo, and nothing that is not of a demo.

    Raises:
        RunError: The folder holds another store or run.
        BusyError: Another process is training the run.
    """
    store, run = out / "store", out / "run"
    if not (run / "config.json").exists():
        # Killed before it had one, or another folder.
        check_empty(run)
    elif read_config(run).recipe != "demo":
        raise RunError(f"{run} is not a run of the demo and is not removed; choose another --out")
    if store.exists():
        _check_store(store)
    # `done` first, so that a demo killed between these lines is not taken for finished; the store,
    # by which the folder is known for that of a demo, last.
    for name in ("done", *FIGURES, PAGE):
        (out / name).unlink(missing_ok=True)
    if run.exists():
        with run_lock(run):
            for path in run.iterdir():
                # On NFS a file that is open keeps its folder from being removed.
                if path.name == LOCK_FILE:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        # Another process may have begun a run there in between.
        with suppress(OSError):
            run.rmdir()
    if store.exists():
        StoreFolder(store).remove()


def report(results: list[Result], out: str | Path) -> str:
    """The text that the demo ends with: test errors, where all is, and commands to try next."""
    out = Path(out)
    chance = 1 - 1 / len(shapes.CLASSES)
    tests = "\n".join(f"  test error, {crops_name(r)}: {r.top1_error:.1%}" for r in results)
    run = out / "run"
    has_page = (out / PAGE).is_file()
    made_page = f"  page:     {out / PAGE}\n" if has_page else ""
    make_page = "" if has_page else f"  {_page_command(out)}\n"
    return (
        f"\n{tests}   (chance: {chance:.0%})\n"
        f"  figures:  {'  '.join(str(out / name) for name in FIGURES)}\n"
        f"  network:  {run}   its images: {out / 'store'}\n"
        f"{made_page}\n"
        "Look at what it sees, and at its answers:\n"
        f"  {command('figure', 'neighbours', run)}\n"
        f"  {command('figure', 'answers', run)}\n"
        f"{make_page}"
        "Next, with your own images, one folder for each class:\n"
        f"  {command('train', 'IMAGES', '--out', 'runs/mine')}\n"
        f"  {command('predict', 'runs/mine', 'IMAGE...')}"
    )
