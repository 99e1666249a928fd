"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012), from image archives to the paper's figures.

    import alexnet
    net = alexnet.Network(alexnet.recipes.original().architecture)
    alexnet.fit(config, "runs/first")

Each name is imported when it is first used, so that `import alexnet` does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet import ops, recipes
    from alexnet.architecture import plan
    from alexnet.config import Architecture, Config
    from alexnet.data.store import Store
    from alexnet.evaluation import evaluate
    from alexnet.inference import features, predict
    from alexnet.model import Network
    from alexnet.train.loop import fit, resume
    from alexnet.trained import load

# The module that defines each name.
_HOME = {
    "Architecture": "alexnet.config",
    "Config": "alexnet.config",
    "Network": "alexnet.model",
    "Store": "alexnet.data.store",
    "evaluate": "alexnet.evaluation",
    "features": "alexnet.inference",
    "fit": "alexnet.train.loop",
    "load": "alexnet.trained",
    "plan": "alexnet.architecture",
    "predict": "alexnet.inference",
    "resume": "alexnet.train.loop",
}

__all__ = [
    "Architecture",
    "Config",
    "Network",
    "Store",
    "evaluate",
    "features",
    "fit",
    "load",
    "ops",
    "plan",
    "predict",
    "recipes",
    "resume",
]


def __getattr__(name: str) -> Any:
    # Called for names that the module does not have yet (PEP 562).
    if name == "__version__":
        return importlib.import_module("alexnet.provenance").VERSION
    if name in ("ops", "recipes"):
        return importlib.import_module(f"alexnet.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'alexnet' has no attribute {name!r}")


# Names that were not used yet are listed too, for the completion of an interactive session.
def __dir__() -> list[str]:
    return [*__all__, "__version__"]
