"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012), from image archives to the paper's figures.

    import alexnet
    net = alexnet.Network(alexnet.recipes.original().architecture)
    alexnet.fit(config, "runs/first")

Each name is imported when it is first used, so that `import alexnet` does not import PyTorch.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet import attribution as attribution
    from alexnet import explain as explain
    from alexnet import inference as inference
    from alexnet import ops, recipes
    from alexnet import receptive_field as receptive_field
    from alexnet import units as units
    from alexnet.architecture import plan
    from alexnet.config import Architecture, Config
    from alexnet.data.store import Store
    from alexnet.evaluation import evaluate
    from alexnet.inference import features, predict
    from alexnet.model import Network
    from alexnet.train.start import fit, resume
    from alexnet.trained import load

    __version__: str

# The module that defines each name.
_HOME = {
    "Architecture": "alexnet.config",
    "Config": "alexnet.config",
    "Network": "alexnet.model",
    "Store": "alexnet.data.store",
    "evaluate": "alexnet.evaluation",
    "features": "alexnet.inference",
    "fit": "alexnet.train.start",
    "load": "alexnet.trained",
    "plan": "alexnet.architecture",
    "predict": "alexnet.inference",
    "resume": "alexnet.train.start",
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


# Not for type checkers: to them a module with this function has every name, also a misspelt one.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Called for names that the module does not have yet (PEP 562).
        if name == "__version__":
            return importlib.import_module("alexnet.provenance").VERSION
        if name in _HOME:
            return getattr(importlib.import_module(_HOME[name]), name)
        # A module, such as `alexnet.units`, which else would be there only after another one has
        # imported it.
        is_public = name.isidentifier() and not name.startswith("_")
        if is_public and importlib.util.find_spec(f"alexnet.{name}"):
            return importlib.import_module(f"alexnet.{name}")
        raise AttributeError(f"module 'alexnet' has no attribute {name!r}")


# Names that were not used yet are listed too, for the completion of an interactive session.
def __dir__() -> list[str]:
    return [*__all__, "__version__"]
