"""The card of a run, RUN/card.md: its data, the errors that were measured, and whether it learned.

Published checkpoints with random weights have been evaluated for years without anyone noticing. The
card says what was tested: the weights against the start that the seed draws, the first filters
against independent numbers, and the signal in the last hidden layer.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet.architecture import plan
from alexnet.checkpoint import Checkpoint, read
from alexnet.config import Config
from alexnet.data import shapes
from alexnet.data.image import centre_square
from alexnet.data.sources.source import readable
from alexnet.diagnostics import BLIND, new_shares, signal, smoothness
from alexnet.errors import AlexNetError, RunError
from alexnet.evaluation import TOP5_CLASSES, Result, crops_name, says_top5
from alexnet.files import in_turn, parse_json, write_whole
from alexnet.model import Network
from alexnet.provenance import describe
from alexnet.terminal import printable
from alexnet.trained import Trained, load

CARD, EVALUATIONS = "card.md", "evaluations.jsonl"
SAME_AS_START = 1e-3
"""Share of new weights below which a layer is as it was drawn: other processors draw numbers that
differ in the last bits."""
CERTAIN = 5.0
"""Standard deviations from 0 at which the filters are not independent numbers."""
FILES = "last.safetensors", "best.safetensors"
IMAGES = 6
"""Images of the built-in data set for the signal check, each of another class."""
MOST_CLASSES = 20
"""Most classes whose names are on the card."""


def write_card(run: Path, name: str = "") -> Path:
    """Write RUN/card.md anew.

    Args:
        name: What the run will be called; empty: as its folder is called now.

    Raises:
        RunError: The run has no checkpoint, or it is damaged.
    """
    saved = {file.name: read(file) for file in checkpoint_files(run)}
    if not saved:
        raise RunError(f"{run} has no checkpoint, and so no card")
    path = run / CARD
    text = _text(run, name or run.resolve().name, saved)
    # Names of files may not be UTF-8.
    write_whole(path, text.encode(errors="backslashreplace"))
    return path


def warn_not_written(run: Path, error: OSError | AlexNetError) -> None:
    """Say on stderr why the card of a run could not be written, which ends no command."""
    reason = getattr(error, "strerror", None) or error
    print(printable(f"warning: {run / CARD} was not written: {reason}"), file=sys.stderr)


def checkpoint_files(run: Path) -> list[Path]:
    """Return the checkpoints that a run has, of which the card tests the first one."""
    return [run / name for name in FILES if (run / name).is_file()]


def of_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint of ours says of itself. Raises RunError if it is damaged."""
    saved = read(path)
    about = saved.about
    evaluation = about.get("evaluation") or {}
    facts = {
        "recipe": about["recipe"],
        # Not the running statistics of batch normalization, which are in the file too.
        "parameters": sum(op.parameters for op in plan(saved.config.architecture)),
        "classes": len(about["classes"]),
        "input_px": saved.config.architecture.input_px,
        "store": about["store"][:12] or "none",
        "sha256": about["sha256"],
        "code": describe(about.get("code")),
    }
    if "val_error" in evaluation:
        facts["validation_error"] = f"{evaluation['val_error']:.2%} (center crop, training's own)"
    if "imported" in about:
        origin = about["imported"]
        facts["imported_from"] = f"{origin['file']}, {origin['network']}"
    if (card := path.with_name(CARD)).is_file():
        facts["card"] = str(card)
    return facts


def add_evaluation(run: Path, data: str, store: str, split: str, results: Sequence[Result]) -> None:
    """Keep the errors that were measured, for the card, and write it.

    Args:
        run: Folder of the run.
        data: Name of the store that it was tested on, `store` its checksum, `split` the split.
        results: What `evaluation.evaluate` returned for this run alone.

    Raises:
        RunError: The run or its list of evaluations is damaged.
    """
    # Two evaluations of one run at the same time would each write what it has read.
    with in_turn(run / f".{EVALUATIONS}.lock"):
        known = evaluations(run)
        for result in results:
            (sha256,) = result.weights_sha256
            # The same test again takes the place of the first one.
            same = {"sha256": sha256, "store": store, "split": split, "patches": result.patches}
            known = [about for about in known if not same.items() <= about.items()]
            top5 = f", top-5 {result.top5_error:.2%}" if says_top5(result) else ""
            known.append(
                {
                    "sha256": sha256,
                    "data": readable(data),
                    "store": store,
                    "split": split,
                    "images": result.images,
                    "patches": result.patches,
                    "loss": result.loss,
                    "top1_error": result.top1_error,
                    "top5_error": result.top5_error,
                    "in_words": crops_name(result) + top5,
                }
            )
        lines = "".join(f"{json.dumps(evaluation)}\n" for evaluation in known)
        write_whole(run / EVALUATIONS, lines.encode())
        write_card(run)


def check_card(run: Path) -> str:
    """Say whether the card of a run belongs to its weights.

    Raises:
        RunError: The card is damaged, or the run has no checkpoint.
    """
    path = run / CARD
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise RunError(f"{path} is damaged; remove it, and evaluate the run") from None
    evaluations(run)
    # A run without any is an error of reading it.
    first = next(iter(checkpoint_files(run)), run)
    if read(first).about["sha256"] not in text:
        return "of other weights; `alexnet evaluate` writes it anew"
    return "of these weights (its text has no checksum)"


def evaluations(run: Path) -> list[dict[str, Any]]:
    """The errors that `alexnet evaluate` has measured. Raises RunError if the file is damaged."""
    path = run / EVALUATIONS
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines()
    try:
        measured = [parse_json(line) for line in lines]
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); remove it, and evaluate again") from None
    wanted = {"sha256": str, "data": str, "split": str, "top1_error": float, "images": int}
    for evaluation in measured:
        if not isinstance(evaluation, dict) or any(
            not isinstance(evaluation.get(key), kind) for key, kind in wanted.items()
        ):
            raise RunError(f"{path} is damaged; remove it, and evaluate again")
    return measured


def _text(run: Path, title: str, saved: dict[str, Checkpoint]) -> str:
    """The card as Markdown."""
    last = next(iter(saved.values()))
    rows = "".join(f"| {name} | {_cell(value)} |\n" for name, value in _rows(run, saved, last))
    checks = "".join(f"- {line}\n" for line in verdict(last))
    heading = " ".join(title.splitlines())
    return (
        f"# {heading}\n\n| | |\n|---|---|\n{rows}\n## Are these weights trained?\n\n"
        f"Tested on `{last.file.name}`; `alexnet check` does the same.\n\n{checks}"
    )


def _cell(text: str) -> str:
    """A value without what would end its cell or its row: names of files and classes have any."""
    return " ".join(text.splitlines()).replace("|", "\\|")


def _code(name: str) -> str:
    """A name as code, in which Markdown and HTML have no meaning."""
    return f"`{name.replace('`', chr(39))}`"


def _rows(run: Path, saved: dict[str, Checkpoint], last: Checkpoint) -> Iterator[tuple[str, str]]:
    about, config = last.about, last.config
    ops = plan(config.architecture)
    classes = about["classes"]
    yield "recipe", _code(config.recipe)
    yield "network", f"{sum(op.parameters for op in ops):,} parameters, {len(classes)} classes"
    if len(classes) <= MOST_CLASSES:
        yield "classes", ", ".join(map(_code, classes))
    if "imported" in about:
        origin = about["imported"]
        yield "imported from", f"{_code(origin['file'])} ({origin['format']}), {origin['network']}"
        yield "sha256 of that file", f"`{origin['sha256']}`"
        # As code in any case: it may be the name of a file.
        yield "mean", f"{_code(origin['mean'])}; its channels are {origin['channels']}"
        yield "trained on", "not known: the file does not say"
    else:
        yield "trained on", f"{_code(config.data)}, checksum `{about['store'][:12]}`"
        yield "seed", str(config.seed)
    init = about.get("init")
    # A run may begin with weights of a run that itself began with those of another.
    while init:
        imported = init.get("imported")
        came = f", imported from {_code(imported['file'])}" if imported else ""
        yield "began with", f"{_code(init['run'])}{came}: {', '.join(map(_code, init['layers']))}"
        yield "sha256 of those weights", f"`{init['sha256']}`"
        if imported:
            yield "sha256 of that file", f"`{imported['sha256']}`"
        init = init.get("init")
    for name, checkpoint in saved.items():
        yield f"`{name}`", _measured(checkpoint)
        yield f"sha256 of the weights of `{name}`", f"`{checkpoint.about['sha256']}`"
    for evaluation in evaluations(run):
        if evaluation["sha256"] == about["sha256"]:
            yield (
                "measured by `alexnet evaluate`",
                f"top-1 error {evaluation['top1_error']:.2%} ({evaluation.get('in_words', '')}; "
                f"{evaluation['images']} images of {_code(evaluation['split'])} in "
                f"{_code(evaluation['data'])})",
            )
    yield "code", describe(about.get("code"))
    made = ", ".join(str(about[key]) for key in ("torch", "machine") if key in about)
    yield "PyTorch and machine", made or "not recorded"


def _measured(saved: Checkpoint) -> str:
    """The epoch of a checkpoint, and the error that training measured then."""
    evaluation = saved.about.get("evaluation")
    if not isinstance(evaluation, dict) or "val_error" not in evaluation:
        return "no error was measured in training"
    top5 = evaluation.get("val_top5_error")
    has_top5 = top5 is not None and len(saved.about["classes"]) >= TOP5_CLASSES
    more = f", top-5 {top5:.2%}" if has_top5 else ""
    return (
        f"epoch {evaluation.get('epoch', '?')}: top-1 error {evaluation['val_error']:.2%}{more} "
        f"(center crop, {_code(evaluation.get('split', 'val'))})"
    )


def verdict(saved: Checkpoint) -> list[str]:
    """What tests say of whether a checkpoint is trained, a sentence for each.

    The first one is the answer.
    """
    trained = load(saved.file, device="cpu")
    is_new, start = _against_start(trained, saved.config)
    is_smooth, filters = _smooth(trained.net)
    if is_new is False:
        first = "No: the weights are the start that the seed draws."
    elif is_new:
        first = "Yes: they differ from their start"
        random = ", but the first filters still look like random numbers."
        # None: there are no filters to look at.
        first += random if is_smooth is False else "."
    elif is_smooth is None:
        first = "Not known: nothing could be tested."
    elif is_smooth:
        first = "Probably: the first filters are not independent random numbers."
    else:
        first = "Probably not: nothing that was tested tells them from random numbers."
    return [first, start, filters, _seen(trained)]


def _against_start(trained: Trained, config: Config) -> tuple[bool | None, str]:
    """Compare the weights with the start that the seed of the run draws.

    Returns:
        Whether they differ; None if the start is not known.
    """
    if "imported" in trained.about:
        return None, "The start is not known: the weights were imported. It was not compared."
    if config.init:
        return None, "The start was another run, and was not compared."
    shares = new_shares(trained.net, Network(config.architecture, config.seed))
    same = [name for name, share in shares.items() if share < SAME_AS_START]
    if len(same) == len(shares):
        return False, f"No layer differs from the start that seed {config.seed} draws."
    low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    text = (
        f"Of the weights, {shares[low]:.0%} ({low}) to {shares[high]:.0%} ({high}) is new against "
        f"the start that seed {config.seed} draws"
    )
    return True, text + (f"; {', '.join(same)} as drawn." if same else ".")


def _smooth(net: Network) -> tuple[bool | None, str]:
    """Test whether the first filters are independent numbers, as random weights are."""
    weight = net.first_weight()
    if weight.dim() != 4 or weight.shape[-1] < 2:
        return None, "The first layer has no filters to test."
    correlation, pairs = smoothness(weight)
    bound = CERTAIN / math.sqrt(pairs)
    chance = f"of independent numbers it is within {bound:.3f} of 0"
    return (
        abs(correlation) > bound,
        f"The correlation of neighboring weights in the filters of {net.plan[0].layer.name} is "
        f"{correlation:.3f}; {chance}.",
    )


def _seen(trained: Trained) -> str:
    """Measure the signal on images of the built-in data set."""
    px = trained.preprocess.stored_px
    images = [centre_square(shapes.image(label, 0), px) for label in range(IMAGES)]
    x = trained.preprocess.centre(torch.from_numpy(np.stack(images)))
    last = signal(trained.net, x)[-2:][0]
    blind = ": the network is nearly blind to its input" if last.difference < BLIND else ""
    return (
        f"On average, two of {IMAGES} built-in images differ by {last.difference:.1%} in "
        f"{last.layer}{blind}."
    )
