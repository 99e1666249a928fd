"""A record of a claim, its effects, and what it says in words."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, groupby
from statistics import mean
from typing import Any

from alexnet.config import Config
from alexnet.experiments import measures
from alexnet.experiments.claim import Claim, Effect, error_name
from alexnet.experiments.claims import WITHOUT_DROPOUT
from alexnet.experiments.data_sets import DATA, Kind, Part
from alexnet.experiments.estimates import Estimate
from alexnet.experiments.measures import RunResult
from alexnet.saved_config import from_dict

UNDERFITTED = 0.2
"""A training error above this share is called underfitted, except in the paper's own setting.

Dropout alone raises the error of a net that knows its images by heart, so the error without it
counts where it was measured.
"""
# The words for the usual widths; any other is written as 1/n.
WIDTHS = {1.0: "full width", 0.5: "half of the width", 0.25: "a quarter of the width"}


@dataclass(frozen=True)
class Row:
    """An effect of a record with its estimate."""

    effect: Effect
    estimate: Estimate
    repeat: tuple[str, ...]
    """Reasons to measure it again; empty: the recorded configurations are the current ones."""
    adjusted_p: float | None = None
    """p value adjusted by Holm's method over all rows read together; None without one."""


@dataclass(frozen=True)
class Record:
    """A record that was read from its file."""

    claim: Claim
    raw: dict[str, Any]
    """The content of the JSON file."""
    results: dict[str, list[RunResult]]
    rows: tuple[Row, ...]
    without_dropout: float | None = None
    """Training error of the first arm's net without dropout, if claim dropout has measured it."""
    other_net_without_dropout: bool = False
    """Whether claim dropout has measured another net on the same images, and not this one."""

    @property
    def in_papers_setting(self) -> bool:
        """Whether it was measured at the paper's scale on the paper's data."""
        return (self.raw["scale"], self.raw["on"]) == ("full", self.claim.kinds[-1])

    def config(self, arm: str) -> Config:
        """The recorded configuration of an arm."""
        return from_dict(Config, self.raw["configs"][arm])

    def machines(self) -> str:
        """The machines that made the runs, in words."""
        return "; ".join(self._machines())

    def _machines(self) -> list[str]:
        return sorted({self._machine(run) for run in chain(*self.results.values())})

    def _machine(self, run: RunResult) -> str:
        machine: str = run.origin.get("machine", self.raw["environment"]["machine"])
        return machine.replace(", 1 cores", ", 1 core")

    def errors(self) -> list[str]:
        """The errors of each arm by seed, such as `test error, base: 36.3, 37.6 %`.

        With the center crop, where all effects of the claim are of that error; with the machines,
        where the runs are of several.
        """
        of_claim = {effect.measure for effect in self.claim.effects}
        of_centre = of_claim <= {measures.centre_error, measures.more_with_few}
        numbers, several = self.claim.numbers_of_images, len(self._machines()) > 1
        lines = []
        for name, runs in self.results.items():
            percents = []
            for machine, group in groupby(runs, self._machine):
                errors = [run.centre_error if of_centre else run.test_error for run in group]
                percent = ", ".join(f"{100 * error:.1f}" for error in errors)
                percents.append(f"{percent} %{f' ({machine})' if several else ''}")
            # Where numbers of images are compared, the arm's own name has its number.
            part = "" if numbers else Part(**self.raw["parts"][name])
            # Records name arms as code does, and readers read American English.
            arm = name.replace("normalisation", "normalization").replace("colour", "color")
            of = "error with the center crop" if of_centre else error_name(self.config(name))
            lines.append(f"{of}, {arm}{part}: {', '.join(percents)}")
        return lines

    def setting(self, row: Row | None = None) -> str:
        """The setting of the first arm in words.

        For example: `desk, photographs, 5 seeds: a quarter of the width, 4,000 images, training
        error 29 %; 24 % for the net trained without dropout: underfitted`. In a claim on the number
        of images it is that of the base of the row; without a row, or for one that compares two
        numbers, only what all arms share.
        """
        first, numbers = self.claim.arms[0].name, self.claim.numbers_of_images
        if not numbers:
            return self._setting_of(first, self.without_dropout)
        if row is None:
            return f"{self._shared(first)}, {numbers[0]:,} to {numbers[-1]:,} images"
        if not row.effect.images:
            return f"{self._shared(first)}, {numbers[0]:,} and {numbers[-1]:,} images"
        (without,) = (
            effect.arms[0]
            for effect in self.claim.effects
            if effect.images == row.effect.images and effect.pair == WITHOUT_DROPOUT
        )
        trained_without = mean(run.train_error for run in self.results[without])
        return self._setting_of(row.effect.arms[-1], trained_without)

    def _shared(self, arm: str) -> str:
        """Scale, data, number of seeds and width of an arm."""
        seeds, width = len(self.results[arm]), self.config(arm).architecture.width
        return (
            f"{where(self.raw)}, {seeds} seed{'s' if seeds > 1 else ''}: "
            f"{WIDTHS.get(width, f'1/{1 / width:.0f} of the width')}"
        )

    def _setting_of(self, arm: str, without_dropout: float | None) -> str:
        """The setting of an arm with its training error, and with that of its net without dropout,
        as far as that is known."""
        train_error = mean(run.train_error for run in self.results[arm])
        until_error = getattr(self.config(arm).schedule, "until_error", None)
        least, text = train_error, ""
        if without_dropout is not None:
            least = without_dropout
            text = f"; {100 * least:.0f} % for the net trained without dropout"
        if self.other_net_without_dropout:
            text = ", not measured without dropout"
        # Claim `relu` ends its runs at a training error.
        elif least > UNDERFITTED and not self.in_papers_setting and not until_error:
            text += ": underfitted"
        images = f"{self._images(arm):,} images"
        return f"{self._shared(arm)}, {images}, training error {100 * train_error:.0f} %{text}"

    def _images(self, arm: str) -> int:
        """The number of training images of an arm."""
        part, store = Part(**self.raw["parts"][arm]), self.raw["store"]
        # The record has the size of the store from which the part was taken.
        all_images = store["images"][self.config(arm).train_split]
        of_each = part.train_of_each or all_images / store["classes"]
        classes = self.raw["new_classes"] if part.of == "new" else part.classes or store["classes"]
        return round(of_each * classes)

    def verdict(self, row: Row) -> tuple[str, str]:
        """The verdict in words, and what it says of the paper's number.

        For example `same sign` and `1.4 inside the interval`; the second is empty where the paper
        gives no number, or there is no interval. Outside the paper's own setting, an opposite sign
        names the setting: it cannot refute a claim about ImageNet.
        """
        verdict, detail = str(row.estimate.verdict), ""
        if row.estimate.low is None:
            one = "one seed" if row.effect.nets == 1 else "one ensemble"
            verdict += f" ({one if row.estimate.n == 1 else 'equal values'}: no interval)"
        elif verdict == "opposite sign" and not self.in_papers_setting:
            scale = self.raw["scale"]
            verdict += " on other images" if scale == "full" else f" at {scale} scale"
        if row.effect.number is not None and row.estimate.low is not None:
            inside = "inside" if row.estimate.contains(row.effect.number) else "outside"
            detail = f"{row.effect.number:g} {inside} the interval"
        return verdict, detail


def where(raw: dict[str, Any]) -> str:
    """The scale and the data of a record, such as `desk, photographs`."""
    kind: Kind = raw["on"]
    return f"{raw['scale']}, {DATA[kind].name}"
