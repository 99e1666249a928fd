"""`alexnet which`"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import parse
from alexnet.errors import AlexNetError
from alexnet.program import command
from alexnet.terminal import entry, printable

if TYPE_CHECKING:
    from alexnet.weights.identify import Identity


@dataclass(frozen=True)
class WhichArguments:
    """Say which AlexNet a file of weights is, and where it differs from others.

    Files: PyTorch's .pth, .safetensors, NumPy's .npz and .npy, ONNX, Caffe's .caffemodel, and
    checkpoints of this program. No code from the file is run. What the weights alone cannot tell is
    said to be unknown.
    """

    file: Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """The file, or the folder of a run."""
    json: bool = False
    """Print JSON."""


def which(arguments: list[str]) -> None:
    """Run `alexnet which`."""
    a = parse(WhichArguments, "which", arguments)
    # Before PyTorch is imported, which takes seconds.
    if not a.file.exists():
        raise AlexNetError(f"{a.file} does not exist")
    from alexnet import checkpoint
    from alexnet.weights.files import read
    from alexnet.weights.identify import identify

    path = a.file / "last.safetensors" if (a.file / "config.json").is_file() else a.file
    file = read(path)
    if checkpoint.ABOUT in file.metadata:
        about = of_checkpoint(path)
        lines = [f"{path}: a run of this program, recipe {about['recipe']}"]
        lines += table([(key.replace("_", " "), str(value)) for key, value in about.items()])
    else:
        identity = identify(file)
        about, lines = of_identity(identity), in_words(identity)
    print(json.dumps(about) if a.json else "\n".join(map(printable, lines)))


def of_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint of ours says of itself. Raises RunError if it is damaged."""
    from alexnet import checkpoint
    from alexnet.architecture import plan
    from alexnet.provenance import describe

    saved = checkpoint.read(path)
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
    if (card := path.with_name("card.md")).is_file():
        facts["card"] = str(card)
    return facts


def of_identity(identity: Identity) -> dict[str, Any]:
    """The answer as JSON values."""
    from alexnet.weights.facts import facts

    file = identity.file
    return {
        "file": str(file.path),
        "format": file.form,
        "networks": [candidate.net.name for candidate in identity.candidates],
        "titles": [candidate.title for candidate in identity.candidates],
        "layout": identity.named.layout if identity.named else None,
        "arrays": len(file.arrays),
        "parameters": sum(array.size for array in file.arrays.values()),
        # Candidates have the same shapes, and so the same number.
        "classes": identity.candidates[0].config.architecture.classes
        if identity.candidates
        else None,
        "facts": {
            fact.what: {"value": fact.value or None, "source": fact.source}
            for fact in facts(identity)
        },
        "reason": identity.reason or None,
    }


def in_words(identity: Identity) -> list[str]:
    """The answer as lines for a terminal."""
    from alexnet.weights.facts import facts

    path, candidates = identity.file.path, identity.candidates
    if not candidates:
        return [f"{path}: an unknown network", *table([("because", identity.reason)])]
    first = candidates[0]
    arrays = first.arrays.values()
    width = first.config.architecture.width
    narrow = f", {width:g} of the width" if width != 1 else ""
    size = (
        f"{sum(array.size for array in arrays):,} parameters in {len(arrays)} arrays, "
        f"{first.config.architecture.classes} classes{narrow}; {identity.file.form}"
    )
    if len(candidates) == 1:
        lines = [f"{path}: {first.title}", *table([("content", size)])]
    else:
        names = [(candidate.net.name, candidate.title) for candidate in candidates]
        lines = [
            f"{path}: one of {len(names)} networks, which the weights do not tell apart",
            *table([*names, ("content", size)]),
        ]
    rows = [
        (fact.what, f"{fact.value} [{fact.source}]" if fact.value else f"unknown [{fact.source}]")
        for fact in facts(identity)
    ]
    if "recipe" in identity.file.metadata:
        rows.append(("made by", f"alexnet export, recipe {identity.file.metadata['recipe']}"))
    net = () if len(candidates) == 1 else ("--net", first.net.name)
    use = f"to use it: {command('import', str(path), 'RUN', *net)}"
    return [*lines, *table(rows), use]


def table(rows: list[tuple[str, str]]) -> list[str]:
    """Rows of a name and its text."""
    return [line for name, text in rows for line in entry(name, text, 24)]
