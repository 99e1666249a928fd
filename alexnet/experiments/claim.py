"""What a claim is made of: arms, effects, the scales it can be run at.

Standard library and NumPy alone, so that the table of claims prints at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet import recipes
from alexnet.config import Config
from alexnet.experiments.effects import Done, Measure, Results

Scale = Literal["smoke", "desk", "full"]
Kind = Literal["photographs", "cifar10", "imagenet"]
Base = Callable[[Scale, Kind], Config]


@dataclass(frozen=True)
class Part:
    """Some classes of a store and some images of each, the same for every seed. 0: all."""

    first_class: int = 0
    classes: int = 0
    train_of_each: int = 0

    def __str__(self) -> str:
        """Nothing for the whole store; else `, 200 images of each of classes 6 to 10`."""
        of = (
            f" of classes {self.first_class + 1} to {self.first_class + self.classes}"
            if self.classes
            else " class"
        )
        if self.train_of_each:
            return f", {self.train_of_each:,} images of each{of}"
        return f", images{of}" if self.classes else ""


STORED_PX: dict[Scale, int] = {"smoke": 112, "desk": 112, "full": 0}
"""What photographs are reduced to; 112 / 96 is about 256 / 224."""
DESK_PART: dict[Kind, Part] = {
    "photographs": Part(),
    "cifar10": Part(train_of_each=1000),
    "imagenet": Part(),
}
"""What of a store the smaller scales train on."""


def error_name(config: Config) -> str:
    """What the error on `val_split` is: relu tests on the images it trains on."""
    return "training error" if config.val_split == config.train_split else "test error"


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
    """One number for each seed, or for each ensemble; above `none` is the claimed side."""

    name: str
    paper: str
    """What the paper, or the authors' log, says of this number, in words."""
    arms: tuple[str, ...]
    """The arms that are compared."""
    measure: Measure
    """Takes one run of each of `arms`, all of one seed; of an ensemble, the members."""
    number: float | None = None
    """The paper's value, where it gives one."""
    none: float = 0.0
    sided: bool = True
    """False: the paper claims no side."""
    nets: int = 1
    """Runs of the one arm that make one value: the members of an ensemble."""
    first_epochs: int | None = None
    """The measure looks at these first epochs alone; None: at the whole run."""

    def values(self, results: Results) -> list[float]:
        """One for each seed, or for each disjoint ensemble of consecutive seeds that is complete."""
        if self.nets > 1:
            (members,) = (results[name] for name in self.arms)
            whole = len(members) // self.nets
            groups = [members[i * self.nets : (i + 1) * self.nets] for i in range(whole)]
            return [self.measure(*group) for group in groups]
        runs = zip(*(results[name] for name in self.arms), strict=True)
        return [self.measure(*of_one_seed) for of_one_seed in runs]


@dataclass(frozen=True)
class Claim:
    """An entry of the table. The first arm is the one that the others are compared with."""

    id: str
    statement: str
    paper: str
    logged: str = "-"
    kinds: tuple[Kind, ...] = ("imagenet",)
    """What it can be run on; the last one is the paper's own."""
    base: Base = lambda scale, kind: recipes.original()
    arms: tuple[Arm, ...] = ()
    effects: tuple[Effect, ...] = ()
    rates: tuple[float, ...] = ()
    """Factors of the base's learning rate: each arm uses the one with the least error after a few
    epochs of seed 0. Empty: the base's own rate."""
    by_hand: tuple[str, ...] = ()
    """The commands for full scale, where it is more than one `alexnet reproduce`."""
    note: str = ""
    """What a reader has to know of the paper's setting, of its log or of the smaller scales."""
    also: Callable[[Path], dict[str, float]] | None = None
    """Measured of each run of the first arm besides, from its folder; into `Done.also`."""
    together: Callable[[Sequence[Done]], dict[str, float]] | None = None
    """Measured of each ensemble of runs of the first arm; into `Done.also` of its members."""

    def config(self, arm: Arm, scale: Scale, kind: Kind) -> Config:
        return arm.change(self.base(scale, kind))

    def part(self, arm: Arm, scale: Scale, kind: Kind) -> Part:
        """What of the store the arm trains on."""
        return arm.part or (Part() if scale == "full" else DESK_PART[kind])

    def is_papers_setting(self, scale: str, kind: str) -> bool:
        """Whether a record says something of the paper's own setting."""
        return scale == "full" and kind == self.kinds[-1]
