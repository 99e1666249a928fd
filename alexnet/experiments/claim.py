"""What a claim is made of: arms, effects, the scales it can be run at.

Standard library alone, so that the table of claims prints at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet import recipes
from alexnet.config import Config
from alexnet.experiments.effects import Results

Scale = Literal["smoke", "desk", "full"]
Kind = Literal["photographs", "cifar10", "imagenet"]
Base = Callable[[Scale, Kind], Config]


@dataclass(frozen=True)
class Part:
    """Some of a store's classes and some pictures of each; the same for every seed. 0: all."""

    first_class: int = 0
    classes: int = 0
    train_of_each: int = 0

    def __str__(self) -> str:
        """Nothing for the whole store; else `, 200 pictures of each of classes 6 to 10`."""
        of = (
            f" of classes {self.first_class + 1} to {self.first_class + self.classes}"
            if self.classes
            else " class"
        )
        if self.train_of_each:
            return f", {self.train_of_each:,} pictures of each{of}"
        return f", pictures{of}" if self.classes else ""


STORED_PX: dict[Scale, int] = {"smoke": 112, "desk": 112, "full": 0}
"""What photographs are reduced to; 112 / 96 is about 256 / 224."""
DESK_PART: dict[Kind, Part] = {"photographs": Part(), "cifar10": Part(train_of_each=1000)}
"""What of a store the smaller scales train on."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison."""

    name: str
    change: Callable[[Config], Config] = lambda config: config
    part: Part | None = None
    """Of the store; None: as the scale has it."""
    init: str = ""
    """The arm whose network of the same seed it starts from."""


@dataclass(frozen=True)
class Effect:
    """One number a seed; above `none` is the claimed side, if one is claimed."""

    name: str
    paper: str
    """What the paper, or the authors' log, says of this number."""
    values: Callable[[Results], list[float]]
    none: float = 0.0
    sided: bool = True


@dataclass(frozen=True)
class Claim:
    """An entry of the table."""

    id: str
    statement: str
    paper: str
    logged: str = "-"
    kinds: tuple[Kind, ...] = ("imagenet",)
    base: Base = lambda scale, kind: recipes.original()
    arms: tuple[Arm, ...] = ()
    effects: tuple[Effect, ...] = ()
    rates: tuple[float, ...] = ()
    """Times the base's rate: each arm's best one after a few epochs of seed 0 is used; empty: the base's own."""
    by_hand: tuple[str, ...] = ()
    """Without arms: the commands for someone who has ImageNet."""
    also: Callable[[Path], dict[str, float]] | None = None
    """Measured of each run of the first arm besides, from its folder; into `Done.also`."""

    def config(self, arm: Arm, scale: Scale, kind: Kind) -> Config:
        return arm.change(self.base(scale, kind))

    def part(self, arm: Arm, scale: Scale, kind: Kind) -> Part:
        """What of the store the arm trains on."""
        return arm.part or (Part() if scale == "full" else DESK_PART[kind])
