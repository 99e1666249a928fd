"""The parts of a claim: arms, effects, and the scales it can be run at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from alexnet.config import Config
from alexnet.experiments.data_sets import DATA, Kind, Part
from alexnet.experiments.measures import Measure, Results, RunResult

Scale = Literal["smoke", "desk", "full"]
Base = Callable[[Scale, Kind], Config]
STORED_PX: dict[Scale, int] = {"smoke": 112, "desk": 112, "full": 0}
"""Side of the stored photographs at each scale, in pixels; 0: as they are.

A crop of 96 pixels is to 112 about what the paper's 224 is to 256.
"""
SEARCH_EPOCHS = 5
"""Length of a run of the search for a learning rate (`Claim.rates`)."""


def error_name(config: Config) -> str:
    """The name of the error on `val_split`; claim relu tests on the images it trains on."""
    return "training error" if config.val_split == config.train_split else "test error"


@dataclass(frozen=True)
class Arm:
    """One side of a comparison."""

    name: str
    change: Callable[[Config], Config] = lambda config: config
    part: Part | None = None
    """The part of the store to train on; None: the part of the scale."""
    init: str = ""
    """Name of the arm whose network of the same seed this arm starts from; empty: none."""


@dataclass(frozen=True)
class Effect:
    """A number for each seed, or for each ensemble, that the claim says is above `none`."""

    name: str
    """What is compared, and its unit; `ablated minus base` stands for `pair`."""
    paper: str
    """The statement of the paper, or of the authors' log, about this number, in words; "-": it
    says nothing."""
    arms: tuple[str, ...]
    """The arms that are compared."""
    measure: Measure
    """Takes one run of each arm, all with the same seed; for an ensemble, its members."""
    number: float | None = None
    """The paper's value, if it gives one."""
    none: float = 0.0
    """The value that stands for no effect: 0 for a difference, 1 for a ratio."""
    one_sided: bool = True
    """False: the paper does not say which side is larger."""
    nets: int = 1
    """Number of runs of the arm that give one value: the members of an ensemble."""
    pair: str = ""
    """What `ablated minus base` of the name is, in words: `without dropout minus with it`."""
    images: int = 0
    """Training images of the compared arms, where a claim compares several numbers of them."""
    top5: bool = False
    """The measure is of top-5 errors, which data of few classes do not have."""
    first_epochs: int | None = None
    """The measure uses only this many epochs from the start; None: the whole run."""

    @property
    def compared(self) -> str:
        """The name in words that need no knowledge of the arms."""
        pair = self.pair or " minus ".join(self.arms)
        return self.name.replace("ablated minus base", pair)

    def values(self, results: Results) -> list[float]:
        """The value for each seed, or for each complete, disjoint ensemble of consecutive seeds."""
        if self.nets > 1:
            (members,) = (results[name] for name in self.arms)
            # Seeds that do not fill an ensemble are left out.
            num_groups = len(members) // self.nets
            groups = [members[i * self.nets : (i + 1) * self.nets] for i in range(num_groups)]
            return [self.measure(*group) for group in groups]
        # Paired by seed: such runs share data and order.
        runs = zip(*(results[name] for name in self.arms), strict=True)
        return [self.measure(*runs_of_seed) for runs_of_seed in runs]


@dataclass(frozen=True)
class Claim:
    """An entry of the table. The other arms are compared with the first."""

    id: str
    """Its name on the command line and in the names of files, which may not change."""
    statement: str
    """What is claimed."""
    paper: str
    """The numbers or words of the paper; "-": it gives no number."""
    _: KW_ONLY
    logged: str = "-"
    """The errors in the log of the authors' code; "-": it has none."""
    kinds: tuple[Kind, ...] = ("imagenet",)
    """The kinds of data it can be run on; the last one is the paper's own where the paper makes the
    claim."""
    base: Base | None = None
    """The configuration that the arms change, by scale and kind of data; None without arms."""
    arms: tuple[Arm, ...] = ()
    """What is compared; empty: only `manual_commands` can test the claim."""
    effects: tuple[Effect, ...] = ()
    """The numbers that decide about the claim."""
    rates: tuple[float, ...] = ()
    """Factors of the base's learning rate: each arm uses the one with the least error after a few
    epochs of seed 0. Empty: the base's own rate."""
    manual_commands: tuple[str, ...] = ()
    """The commands for full scale, if one `alexnet reproduce` is not enough."""
    elsewhere: str = ""
    """What the one systematic study of this shape found: Mishkin, Sergievskiy and Matas 2016 and
    their repository ducha-aiki/caffenet-benchmark, errors of single runs of CaffeNet on ImageNet
    2012 at 128 pixels, with fc6 and fc7 of 2,048 units."""
    note: str = ""
    """What a reader has to know about the paper's setting, its log or the smaller scales."""
    many_parts: bool = False
    """Its arms differ in many parts of the network, so that its effects are not of one of them."""
    in_paper: bool = True
    """Whether the paper makes the claim."""
    extra_metrics: Callable[[Path, Path], dict[str, float]] | None = None
    """Measures each run of the first arm, from its folder and that of its store; kept in
    `RunResult.extra_metrics`."""
    together: Callable[[Sequence[RunResult]], dict[str, float]] | None = None
    """Measures each ensemble of runs of the first arm; kept in `extra_metrics` of its members."""

    @property
    def printed_statement(self) -> str:
        """The statement, with the words for a claim that the paper does not make."""
        return self.statement if self.in_paper else f"{self.statement} (not in the paper)"

    @property
    def numbers_of_images(self) -> tuple[int, ...]:
        """The numbers of training images that are compared; empty: the claim is on none."""
        return tuple(sorted({effect.images for effect in self.effects} - {0}))

    @property
    def learns_first(self) -> bool:
        """Whether an arm learns the classes of another store first."""
        return any(arm.part is not None and arm.part.of == "first" for arm in self.arms)

    def config(self, arm: Arm, scale: Scale, kind: Kind) -> Config:
        """The configuration of an arm."""
        assert self.base is not None
        return arm.change(self.base(scale, kind))

    def part(self, arm: Arm, scale: Scale, kind: Kind) -> Part:
        """The part of the store that the arm trains on."""
        return arm.part or (Part() if scale == "full" else DATA[kind].desk_part)
