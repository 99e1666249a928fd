"""The command line: a function for each verb. Only here are arguments parsed; torch is imported once they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from alexnet import __version__, recipes
from alexnet.cli.making import demo, prepare, train
from alexnet.cli.measuring import bench, reproduce
from alexnet.cli.using import evaluate, export, features, figure, predict, summary
from alexnet.data.places import StoreLost

HELP = """usage: alexnet VERB ...      (alexnet VERB --help tells more)

AlexNet as a working system: the 2012 paper, from image archives to figures.

  demo                                  the whole system in minutes on a built-in set
  prepare SOURCE STORE                  folder, ImageNet archives, Parquet, WebDataset or hub name -> store
  train RECIPE --data STORE --out RUN   {recipes}
  train --resume RUN                    go on with an interrupted run
  evaluate RUN... --data STORE          centre and ten patches, top-1 and top-5; several runs: their ensemble
  predict RUN PICTURE...                classes and probabilities of picture files and folders
  features RUN --layer fc7 --data STORE --out FOLDER
  figure filters|answers|neighbours|curves|signal RUN...   pictures of a run
  summary RECIPE                        shapes, parameters and multiply-adds of every layer
  export RUN FILE.onnx|FILE.safetensors
  bench ops|step|loader|prepare|infer|scale  this machine's speeds, beside its limits and other programs
  reproduce [CLAIM...] [--data STORE]   the paper's claims as experiments; without arguments, their table
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The program `alexnet`. Exit code 2 and one sentence for a user's mistake; 128 + signal when stopped."""
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(HELP.format(recipes=", ".join(recipes.__all__)), end="")
        return
    if verb == "--version":
        print(f"alexnet {__version__}")
        return
    if verb not in VERBS:
        _fail(f"there is no verb {verb!r}; the verbs are {', '.join(VERBS)}")
    try:
        VERBS[verb](rest)
    except (ValueError, FileNotFoundError, PermissionError) as error:
        _fail(str(error))
    except StoreLost as error:
        print(f"alexnet: {error}", file=sys.stderr, flush=True)
        os._exit(2)  # threads may wait for the store for ever
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str) -> NoReturn:
    print(f"alexnet: {sentence}", file=sys.stderr)
    sys.exit(2)


VERBS: dict[str, Callable[[list[str]], None]] = {
    "demo": demo,
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "features": features,
    "figure": figure,
    "summary": summary,
    "export": export,
    "bench": bench,
    "reproduce": reproduce,
}
