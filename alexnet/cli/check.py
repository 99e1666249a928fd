"""`alexnet check`"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import Names, parse
from alexnet.data.storage import is_url
from alexnet.errors import AlexNetError
from alexnet.terminal import wrapped

if TYPE_CHECKING:
    from alexnet.checkpoint import Checkpoint


@dataclass(frozen=True)
class CheckArguments:
    """Compare the files of stores and runs with their checksums, or check this machine.

    The exit code is 2 at the first file that is damaged, and the message names the file. Files that
    have no checksum (config.json, metrics.jsonl) are read and checked for their form. For a
    run, it also reports whether its weights are trained, as far as can be tested.

    Without arguments, each part of this machine that the program can use has a line, with what it
    costs to lack it. The exit code is 0 then. Put these lines into a bug report.
    """

    paths: Positional[Annotated[Names, tyro.conf.arg(metavar="[STORE|RUN...]")]] = ()
    """Folders or URLs of stores, folders of runs, and checkpoint files."""


def check(arguments: list[str]) -> None:
    """Run `alexnet check`: one line for each part of the machine, or that is intact."""
    a = parse(CheckArguments, "check", arguments)
    if not a.paths:
        _check_environment()
    for name in a.paths:
        path = Path(name)
        if path.is_file():
            from alexnet import checkpoint

            saved = checkpoint.read(path)
            print(f"{name}: intact{_remarks(saved)}")
            _say_whether_trained(name, saved)
        elif (path / "config.json").exists():
            _check_run(path)
        elif is_url(name) or (path / "manifest.json").exists():
            _check_store(name)
        else:
            raise AlexNetError(
                f"{name} is neither a store nor a run: it has no manifest.json and no config.json"
            )


def _check_environment() -> None:
    from alexnet.environment import components

    known = components()
    width = max(len(part.name) for part in known)
    for part in known:
        print(f"{part.name:{width}}  {'ok' if part.ok else '--'}  {part.text}")


def _check_store(name: str) -> None:
    from alexnet.data.store import Store
    from alexnet.progress import Progress

    store = Store(name)
    splits = store.manifest["splits"]
    total = sum(shard["bytes"] for split in splits.values() for shard in split["shards"])
    read = Counter[str]()
    with Progress(f"check {name}", total >> 20, "MiB") as progress:

        def advance(part: str, size: int) -> None:
            before = read.total() >> 20
            read[part] += size
            progress.advance((read.total() >> 20) - before)

        store.verify(advance)
    sealed = "" if "sha256" in store.manifest else ", apart from names and numbers: no checksum"
    print(f"{name}/manifest.json: intact{sealed}")
    for part in read:
        about = ""
        if part in splits:
            shards = splits[part]["shards"]
            about = f" ({splits[part]['images']} images in {len(shards)} files)"
        print(f"{name}/{part}: intact{about}")


def _check_run(run: Path) -> None:
    from alexnet import card, checkpoint
    from alexnet.train.run_log import read_metrics

    checkpoint.read_config(run)
    print(f"{run}/config.json: readable (it has no checksum)")
    if (run / "metrics.jsonl").exists():
        lines = read_metrics(run)
        print(f"{run}/metrics.jsonl: readable ({len(lines)} lines, no checksum)")
    for number, file in enumerate(card.checkpoint_files(run)):
        saved = checkpoint.read(file)
        print(f"{file}: intact{_remarks(saved)}")
        if number == 0:
            _say_whether_trained(str(file), saved)
    if (run / card.CARD).exists():
        print(f"{run / card.CARD}: {card.check_card(run)}")


def _say_whether_trained(name: str, saved: Checkpoint) -> None:
    """Print what tests say of whether the weights are trained."""
    from alexnet.card import verdict

    first, *rest = verdict(saved)
    print(f"{name}: trained? {first}")
    for sentence in rest:
        print(*wrapped(sentence, "  ", "  "), sep="\n")


def _remarks(saved: Checkpoint) -> str:
    """What there is to say of a checkpoint that could be read; its config is checked too."""
    recipe = saved.config.recipe
    covered = "" if saved.covered else ", apart from its mean image and header: no checksum"
    return f" ({recipe}, {len(saved.about['classes'])} classes{covered})"
