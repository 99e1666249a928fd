"""The sign of every effect, and the statistics of estimates."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet import recipes
from alexnet.config import StepSchedule
from alexnet.experiments import extra, job, measures, runner
from alexnet.experiments.claim import Claim, Effect
from alexnet.experiments.claims import CLAIMS
from alexnet.experiments.estimates import estimate, holm
from alexnet.experiments.measures import (
    RunResult,
    apart,
    dropout_over_none,
    ensemble,
    epochs_to,
    mixture,
    steady_epochs,
)


def made_up(
    test: float = 0.4,
    centre: float = 0.4,
    train: float = 0.4,
    colour: Any = (),
    losses: Any = (),
    errors: Any = (),
    steady: int = 100,
    top5: float = 0.4,
    **extra_metrics: float,
) -> RunResult:
    """A run with made-up results; `losses` and `errors` are those of validation in each epoch."""
    count = max(len(losses), len(errors))
    epochs = [
        {"val_loss": loss, "val_error": error, "train_loss": -loss}
        for loss, error in zip(
            [*losses, *[0.0] * (count - len(losses))],
            [*errors, *[1.0] * (count - len(errors))],
            strict=True,
        )
    ]
    return RunResult(
        *(test, centre, train, 1, 0.01, colour, tuple(epochs), steady),
        extra_metrics,
        top5,
    )


# Made-up runs of each arm. Every number that an effect must not use has the opposite tendency, so
# that an effect which reads the wrong one gets the wrong sign.
MORE = {"test": 0.5, "centre": 0.3}
LESS = {"test": 0.3, "centre": 0.5}
WIDER = {"centre": 0.4, "train": 0.2, "test": 0.3}
NARROWER = {"centre": 0.5, "train": 0.5, "test": 0.5}
EQUAL: dict[str, Any] = {}
SLOW, FAST = {"errors": (0.45, 0.35, 0.25)}, {"errors": (0.25,)}
# After the steady epochs the order of the losses is reversed, as a drop of the rate may do.
STEADY_SLOW = {"losses": (2.0, 1.8, 1.6, 0.1), "steady": 3}
STEADY_FAST = {"losses": (1.6, 1.4, 1.2, 1.2), "steady": 3}
ALTERNATE = tuple([0.0, 1.0] * 12)
ERROR = "test error, ablated minus base, percentage points"
TOP5 = f"top-5 {ERROR}"
GAP = (
    "gap (test error with the center crop minus training error), ablated minus base, "
    "percentage points"
)

# (claim, effect): arms in which the paper is right, the effect then, arms in which it is wrong.
# Arms that are not given have the default results.
Arms = dict[str, dict[str, Any]]
SIGNS: dict[tuple[str, str], tuple[Arms, float, Arms]] = {
    ("relu", "epochs to 25 % training error, tanh over ReLU"): (
        {"tanh": SLOW, "relu": FAST},
        3,
        {"tanh": FAST, "relu": SLOW},
    ),
    **{
        (claim, ERROR): ({arm: MORE}, 10, {arm: LESS})
        for claim, arm in (
            ("columns", "one column"),
            ("lrn", "no normalisation"),
            ("lrn-cifar", "no normalisation"),
            ("overlap", "pooling 2/2"),
            ("colour", "no colour noise"),
            ("dropout", "no dropout"),
            ("bias", "biases 0"),
            ("links", "no links"),
        )
    },
    **{
        (claim, TOP5): ({arm: {"top5": 0.5}}, 10, {arm: {"top5": 0.3}})
        for claim, arm in (
            ("columns", "one column"),
            ("lrn", "no normalisation"),
            ("overlap", "pooling 2/2"),
        )
    },
    **{
        (
            "images",
            f"error with the center crop, {pair}, with 3,100 images less the same with 25,000, "
            "percentage points",
        ): (
            {f"{arm}, 3,100 images": LESS, f"{arm}, 25,000 images": MORE},
            20,
            {f"{arm}, 3,100 images": MORE, f"{arm}, 25,000 images": LESS},
        )
        for arm, pair in (
            ("no dropout", "without dropout minus with it"),
            ("no crops", "without random crops and reflections minus with them"),
            ("no colour noise", "without color noise minus with it"),
        )
    },
    **{
        (
            "images",
            f"error with the center crop, {images:,} images, {pair}, percentage points",
        ): (
            {f"{arm}, {images:,} images": LESS},
            10,
            {f"{arm}, {images:,} images": MORE},
        )
        for images in (3_100, 6_250, 12_500, 25_000)
        for arm, pair in (
            ("no dropout", "without dropout minus with it"),
            ("no crops", "without random crops and reflections minus with them"),
            ("no colour noise", "without color noise minus with it"),
        )
    },
    **{
        ("ladder", f"error with the center crop, {pair}, percentage points"): (
            {below: {"centre": 0.5}, rung: {"centre": 0.4}},
            10,
            {below: {"centre": 0.4}, rung: {"centre": 0.5}},
        )
        for below, rung, pair in (
            *(
                (below, rung, f"without {rung} minus with {rung}")
                for below, rung in (
                    ("one column", "batch normalization"),
                    ("batch normalization", "warm-up and cosine"),
                    ("warm-up and cosine", "label smoothing"),
                    ("label smoothing", "average of the weights"),
                    ("average of the weights", "random resized crops"),
                    ("average of the weights", "mixup"),
                    ("average of the weights", "CutMix"),
                    ("average of the weights", "larger test crops"),
                )
            ),
            ("one column", "average of the weights", "one column minus all that is kept"),
        )
    },
    **{
        ("modern", f"{error}, the original's settings minus the later ones, percentage points"): (
            {"base": more, "modern": less},
            20,
            {"base": less, "modern": more},
        )
        for error, more, less in (
            ("error with the center crop", LESS, MORE),
            ("test error", MORE, LESS),
            ("top-5 test error", {"top5": 0.5}, {"top5": 0.3}),
        )
    },
    ("lrn-cifar", "test error, cifar_13 minus cifar_11, percentage points"): (
        {"cifar_13": MORE, "no normalisation": LESS},
        10,
        {"cifar_13": LESS, "no normalisation": MORE},
    ),
    **{
        (claim, GAP): ({arm: WIDER}, 20, {arm: NARROWER, "base": WIDER})
        for claim, arm in (
            ("overlap", "pooling 2/2"),
            ("crops", "no crops"),
            ("dropout", "no dropout"),
        )
    },
    ("crops", "error with the center crop, ablated minus base, percentage points"): (
        {"no crops": {"centre": 0.5, "test": 0.3}},
        10,
        {"no crops": {"centre": 0.3, "test": 0.5}},
    ),
    ("crops", "test error, center crop minus ten crops, percentage points"): (
        {"base": {"centre": 0.5, "test": 0.4}, "no crops": {"centre": 0.4, "test": 0.5}},
        10,
        {"base": {"centre": 0.4, "test": 0.5}, "no crops": {"centre": 0.5, "test": 0.4}},
    ),
    (
        "dropout",
        "epochs to the same validation loss before any change of the schedule, "
        "with dropout over without",
    ): (
        {"base": STEADY_SLOW, "no dropout": STEADY_FAST},
        3,
        {"base": STEADY_FAST, "no dropout": STEADY_SLOW},
    ),
    (
        "dropout",
        "error with the center crop, halved outputs minus the average of 64 masks, "
        "percentage points",
    ): (
        {"base": {"halved_error": 0.5, "masked_error": 0.4}},
        10,
        {"base": {"halved_error": 0.4, "masked_error": 0.5}},
    ),
    **{
        ("depth", f"test error, without conv{i} minus with it, percentage points"): (
            {f"no conv{j}": MORE if i == j else LESS for j in range(2, 6)},
            10,
            {f"no conv{j}": LESS if i == j else MORE for j in range(2, 6)},
        )
        for i in range(2, 6)
    },
    ("bias", "validation loss after the first epoch, ablated minus base"): (
        {"biases 0": {"losses": (2.2, 1.0)}, "base": {"losses": (2.1, 1.5)}},
        0.1,
        {"biases 0": {"losses": (2.1, 1.5)}, "base": {"losses": (2.2, 1.0)}},
    ),
    ("ensemble", "test error, a single net (mean) minus five averaged, percentage points"): (
        {"base": {"ensemble_error": 0.3, "weighted_gain": 0.0}},
        10,
        {"base": {"ensemble_error": 0.5, "weighted_gain": 0.0}},
    ),
    ("ensemble", "test error, plain average minus weighted average, percentage points"): (
        {"base": {"ensemble_error": 0.3, "weighted_gain": 0.1}},
        10,
        {"base": {"ensemble_error": 0.3, "weighted_gain": -0.1}},
    ),
    ("pretrain", "test error, from scratch minus pre-trained, percentage points"): (
        {"from scratch": MORE, "pre-trained": EQUAL, "on the first classes": LESS},
        10,
        {"from scratch": LESS, "pre-trained": EQUAL, "on the first classes": MORE},
    ),
    ("pretrain", "top-5 test error, from scratch minus pre-trained, percentage points"): (
        {"from scratch": {"top5": 0.5}, "pre-trained": {"top5": 0.4}, "on the first classes": LESS},
        10,
        {"from scratch": {"top5": 0.3}, "pre-trained": {"top5": 0.4}, "on the first classes": LESS},
    ),
    ("filters", "distance between the columns' mean color, minus that of random halves"): (
        {"base": {"colour": ((0.0,) * 24, (1.0,) * 24)}},
        0.886,
        {"base": {"colour": (ALTERNATE, ALTERNATE)}},
    ),
    (
        "features",
        "six nearest images of the same class, by hidden layer minus by pixels, percentage points",
    ): (
        {"base": {"same_class_by_hidden": 0.5, "same_class_by_pixels": 0.4}},
        10,
        {"base": {"same_class_by_hidden": 0.4, "same_class_by_pixels": 0.5}},
    ),
}


EFFECTS = [(claim, effect) for claim in CLAIMS for effect in claim.effects]


def test_every_effect_has_made_up_runs_for_and_against_the_paper() -> None:
    assert set(SIGNS) == {(claim.id, effect.name) for claim, effect in EFFECTS}
    assert len(SIGNS) == len(EFFECTS)


@pytest.mark.parametrize(
    ("claim", "effect"), EFFECTS, ids=lambda value: getattr(value, "id", None) or value.name
)
def test_effect_sign_agrees_with_the_claim(claim: Claim, effect: Effect) -> None:
    right, size, wrong = SIGNS[claim.id, effect.name]

    def values(arms: Arms) -> list[float]:
        assert set(arms) <= {arm.name for arm in claim.arms}
        results = {arm.name: [made_up(**arms.get(arm.name, EQUAL))] * 10 for arm in claim.arms}
        return effect.values(results)

    count = 10 // effect.nets
    assert values(right) == pytest.approx([size] * count, abs=0.01)
    assert min(values(right)) > effect.none > max(values(wrong))
    for arms, verdict in ((right, "same sign"), (wrong, "opposite sign")):
        # Equal values have no interval.
        first, *others = values(arms)
        found = estimate([first + 1e-3 * abs(first), *others], effect.none, effect.one_sided)
        assert found.verdict == (verdict if effect.one_sided else "differs")


def test_effects_have_the_numbers_and_sides_of_the_paper() -> None:
    """The numbers are those of sections 3 to 7; ratios are compared with 1."""
    numbers = {(claim.id, effect.name): effect.number for claim, effect in EFFECTS if effect.number}
    error_numbers = {"columns": 1.7, "lrn": 1.4, "lrn-cifar": 2, "overlap": 0.4, "colour": 1}
    assert {id: number for (id, name), number in numbers.items() if name == ERROR} == error_numbers
    top5_numbers = {"columns": 1.2, "lrn": 1.2, "overlap": 0.3}
    assert {id: number for (id, name), number in numbers.items() if name == TOP5} == top5_numbers
    others = sorted((id, n) for (id, name), n in numbers.items() if name not in (ERROR, TOP5))
    assert others == [
        ("crops", 1.5),
        *[("depth", 2)] * 4,
        ("dropout", 2),
        ("ensemble", 2.6),
        ("lrn-cifar", 2),
        ("pretrain", 1.6),
        ("pretrain", 1.7),
        ("relu", 6),
    ]
    ratios = [(claim.id, effect.none) for claim, effect in EFFECTS if effect.none]
    assert ratios == [("relu", 1), ("dropout", 1)]
    two_sided = [
        (claim.id, effect.name.split(",")[1]) for claim, effect in EFFECTS if not effect.one_sided
    ]
    assert two_sided == [
        ("dropout", " halved outputs minus the average of 64 masks"),
        ("bias", " ablated minus base"),
        ("ensemble", " plain average minus weighted average"),
    ]


def test_claims_quote_the_numbers_of_the_paper_and_of_the_log() -> None:
    quoted = {claim.id: (claim.paper, claim.logged) for claim in CLAIMS}
    assert quoted == {
        "relu": ("6 times", "-"),
        "columns": (
            "-1.7 / -1.2 points",
            "39.168 / 18.229 with one column, 37.473 / 16.999 with two (ImageNet 2010 test set)",
        ),
        "lrn": (
            "-1.4 / -1.2 points",
            "42.034 / 19.362 without (both normalizations), 40.664 / 18.210 with",
        ),
        "lrn-cifar": ("13 % without, 11 % with", "-"),
        "overlap": (
            "-0.4 / -0.3 points",
            "41.058 / 18.510 with 2/2, 40.664 / 18.210 overlapping",
        ),
        "crops": (
            "39.0 / 18.3 with the center crop, 37.5 / 17.0 with ten",
            "39.025 / 18.295 with the center crop, 37.473 / 16.999 with ten "
            "(ImageNet 2010 test set)",
        ),
        "colour": ("more than 1 point less (top-1)", "-"),
        "dropout": ("substantial overfitting; twice the iterations", "-"),
        "images": ("-", "-"),
        "ladder": ("-", "-"),
        "modern": ("-", "-"),
        "depth": ("about 2 points more (top-1)", "-"),
        "bias": ("-", "-"),
        "links": ("-", "41.828 / 19.330 without, of another width"),
        "ensemble": ("38.1 / 16.4 of five nets, 40.7 / 18.2 of one", "-"),
        "pretrain": ("39.0 / 16.6 pre-trained, 40.7 / 18.2 from scratch", "38.990 / 16.622"),
        "ilsvrc2010": ("37.5 / 17.0; the best before it: 45.7 / 25.7", "37.473 / 16.999"),
        "ilsvrc2012": ("40.7 / 18.2", "40.664 / 18.210"),
        "seven": (
            "36.7 / 15.4; 15.3 (top-5) on the test set, where the runner-up of 2012 had 26.2",
            "-",
        ),
        "filters": ("Fig. 3", "-"),
        "features": ("Fig. 4", "-"),
    }


def test_numbers_of_an_effect_are_those_of_its_words() -> None:
    """`1.7` in words is 1.7 as a number; `about 2` and `more than 1` have theirs as well."""
    for claim, effect in EFFECTS:
        words = re.findall(r"[\d.]+", effect.paper) if "log" not in effect.paper else []
        numbers = [float(word) for word in words if float(word) != 0]
        assert numbers == ([] if effect.number is None else [effect.number]), (claim.id, effect)


def test_samples_and_searches_of_the_claims_have_their_sizes() -> None:
    """Records hold configurations, so a change of one of these would go unnoticed."""
    assert (extra.MASKS, extra.NEIGHBOURS, extra.QUERIES) == (64, 4000, 1000)
    assert (job.TRAIN_IMAGES, measures.HALVES, runner.SEARCH_EPOCHS) == (2000, 5, 5)
    assert {claim.id: claim.rates for claim in CLAIMS if claim.rates} == {
        "relu": (0.5, 1, 2, 4, 8, 16)
    }


def test_epochs_to_an_error_are_interpolated_or_a_lower_bound() -> None:
    assert epochs_to(0.25, made_up(errors=(0.5, 0.3, 0.2))) == pytest.approx(2.5)
    assert epochs_to(0.25, made_up(errors=(0.25,))) == pytest.approx(1.0)
    assert epochs_to(0.25, made_up(errors=(0.5, 0.4))) == 2.0


def test_dropout_epochs_ignore_what_follows_a_learning_rate_drop() -> None:
    base, none = made_up(losses=(2, 1.8, 1.6), steady=3), made_up(losses=(1.7, 1.5, 1.4), steady=3)
    ratio = dropout_over_none(base, none)
    assert ratio == pytest.approx(3 / 1.5)  # `none` reaches 1.6 between its first two epochs
    later = made_up(losses=(2, 1.8, 1.6, 0.2, 0.1), steady=3)
    assert dropout_over_none(later, none) == ratio
    assert steady_epochs(StepSchedule(24, (19, 22), colour_until=18)) == 18
    assert steady_epochs(recipes.original().schedule) == 25
    assert steady_epochs(StepSchedule(7)) == 7
    with pytest.raises(ValueError, match="Plateau"):
        steady_epochs(recipes.paper().schedule)


def test_column_distance_is_large_only_for_different_columns() -> None:
    rng = np.random.default_rng(0)
    grey, colour = rng.uniform(0, 0.2, 24).tolist(), rng.uniform(0.5, 0.9, 24).tolist()
    further, by_chance = apart((grey, colour))
    assert further > 0.4
    assert by_chance == 0
    assert apart((colour, grey))[0] == pytest.approx(further, abs=0.02)  # other random halves
    alike = [apart(np.split(rng.uniform(0, 1, 48), 2)) for _ in range(50)]  # type: ignore[arg-type]
    assert abs(np.mean([difference for difference, _ in alike])) < 0.02
    assert 0.3 < np.mean([share for _, share in alike]) < 0.7  # uniform


def member(right: np.ndarray, sure: float, path: Path) -> RunResult:
    """A net that gives the probability `sure` to the right class of the images in `right`."""
    labels = np.arange(len(right)) % 2
    p = np.where((labels == 1) == right, sure, 1 - sure)
    np.savez(path, probabilities=np.stack([1 - p, p], 1), labels=labels)
    return replace(made_up(), test_error=1 - right.mean(), predictions=path)


def test_ensemble_is_better_where_its_members_err_on_different_images(tmp_path: Path) -> None:
    right = np.ones((3, 90), bool)
    for net in range(3):
        right[net, 30 * net : 30 * net + 30] = False
    members = [member(r, 0.8, tmp_path / f"{net}.npz") for net, r in enumerate(right)]
    assert ensemble(members)["ensemble_error"] == 0
    alike = [members[0]] * 3
    assert ensemble(alike)["ensemble_error"] == pytest.approx(1 / 3)
    assert ensemble(alike)["weighted_gain"] == 0


def test_weighted_average_leaves_out_a_poor_member(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nets = [
        member(rng.random(400) < share, sure, tmp_path / f"{share}.npz")
        for share, sure in ((0.9, 0.7), (0.1, 0.95))
    ]
    files = [np.load(net.predictions) for net in nets if net.predictions]
    weights = mixture(np.stack([f["probabilities"][np.arange(400), f["labels"]] for f in files]))
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > 0.95
    # The plain average follows the member that is sure.
    assert ensemble(nets)["weighted_gain"] > 0.5


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8), st.floats(-5, 5))
def test_the_verdict_follows_from_the_interval(values: list[float], none: float) -> None:
    e = estimate(values, none)
    if e.low is None or e.high is None:
        assert max(values) == pytest.approx(min(values))
        assert e.mean != none
        assert (e.p, e.minimum_detectable, e.verdict) == (None, None, "inconclusive")
        return
    assert e.p is not None
    assert e.low <= e.mean + 1e-9
    assert e.mean <= e.high + 1e-9
    assert (e.verdict == "same sign") == (e.low > none)
    assert (e.verdict == "opposite sign") == (e.high < none)
    if abs(e.p - 0.05) > 1e-6:  # the t test and the interval are the same rule
        assert (e.p < 0.05) == (e.verdict != "inconclusive")
    assert e.contains(e.mean + 1e-9) or e.high - e.low < 1e-8
    assert e.contains(e.high + 1) is False


def test_equal_values_within_rounding_of_no_effect_are_inconclusive() -> None:
    e = estimate([1.0000000000000002] * 2, none=1.0)
    assert (e.p, e.verdict) == (1.0, "inconclusive")


def test_estimate_uses_students_t() -> None:
    values = (1.0, 2.0, 3.0, 4.0, 5.0)
    e = estimate(values)
    assert (e.mean, e.n) == (3.0, 5)
    # From a table: t of 4 degrees of freedom is 2.776 at 95 %; P(|t| > 3 / 0.70711) is 0.01324.
    np.testing.assert_allclose(
        [e.deviation, e.low, e.high, e.p], [1.58114, 1.03676, 4.96324, 0.01324], rtol=1e-3
    )
    assert e.verdict == "same sign"
    assert estimate([-v for v in values]).verdict == "opposite sign"
    assert estimate([7.0]).verdict == "inconclusive"
    assert estimate([7.0]).contains(7.0) is None
    for sign in (1, -1):
        assert estimate([sign * v for v in values], one_sided=False).verdict == "differs"
    assert estimate([-1.0, 1.0, 0.0], one_sided=False).verdict == "inconclusive"


@pytest.mark.parametrize("errors", [(0.5, 0.5), (0.41 - 0.40, 0.51 - 0.50)])
def test_seeds_that_agree_by_chance_decide_nothing(errors: tuple[float, float]) -> None:
    """Their p of 0, or of 1e-15 by rounding, stood beside any number of other rows."""
    e = estimate([100 * error for error in errors])
    assert (e.p, e.low, e.verdict) == (None, None, "inconclusive")
    assert (estimate([0.0, 0.0]).p, estimate([0.0, 0.0]).low) == (1, 0)


@pytest.mark.slow
def test_the_minimum_detectable_effect_is_found_four_times_in_five() -> None:
    rng, distances = np.random.default_rng(0), []
    for _ in range(4000):
        detectable = estimate(rng.normal(0, 1, 5).tolist()).minimum_detectable
        assert detectable is not None
        distances.append(detectable)
    effect = float(np.mean(distances))
    verdicts = [estimate(rng.normal(effect, 1, 5).tolist()).verdict for _ in range(2000)]
    share = np.mean([verdict == "same sign" for verdict in verdicts])
    # 0.8 if each sample had the true deviation, and 0.755 with its own. The share of 2,000 samples
    # has a deviation of 0.01 itself.
    assert 0.75 < share < 0.8


def test_holm_adjustment_matches_a_worked_example() -> None:
    # By hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which is raised to the value before it.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]
