"""Test errors: scores, ten crops, ensembles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet import evaluate, load
from alexnet.config import Augment, StoreSettings
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.data.store import Store
from alexnet.errors import RunError
from alexnet.evaluation import measure, says_top5, score
from alexnet.train.start import fit
from alexnet.trained import probabilities
from tests.conftest import tiny


def test_score_counts_top1_top5_classes_and_confusion() -> None:
    p = np.array([[0.5, 0.2, 0.1, 0.08, 0.07, 0.05], [0.1, 0.2, 0.3, 0.15, 0.13, 0.12]], np.float32)
    result = score(np.vstack([p, p]), np.array([0, 0, 5, 2]), 1)
    # Images 0 and 3 are right. The labels of images 1 and 2 are not among the best five.
    assert result.images == 4
    assert result.top1_error == 0.5
    assert result.top5_error == 0.5
    assert result.class_errors == (0.5, None, 0.0, None, None, 1.0)
    assert result.confusion[0] == (1, 0, 1, 0, 0, 0)
    assert result.loss == pytest.approx(-np.log([0.5, 0.1, 0.05, 0.3]).mean())


def test_the_fifth_best_class_counts_in_top5_and_the_sixth_does_not() -> None:
    p = np.array([[0.3, 0.25, 0.2, 0.15, 0.06, 0.04]], np.float32)
    errors = [score(p, np.array([label]), 1).top5_error for label in range(6)]
    assert errors == [0, 0, 0, 0, 0, 1]


def test_top5_is_omitted_with_five_or_fewer_classes() -> None:
    assert score(np.full((3, 5), 0.2, np.float32), np.array([0, 1, 2]), 1).top5_error is None


@pytest.mark.parametrize("values", [2, 30, 10**6])
@pytest.mark.parametrize("damaged", [False, True])
def test_score_is_that_of_a_stable_sort(values: int, damaged: bool) -> None:
    """Ties are broken by the order of the classes, and NaN comes last."""
    rng, rows = np.random.default_rng(values), np.arange(400)
    p = (rng.integers(0, values, (400, 20)) / values).astype(np.float32)
    if damaged:
        p[rng.random(p.shape) < 0.3] = np.nan
        p[0] = np.nan
    labels = rng.integers(0, 20, 400)
    order = np.argsort(-p, axis=1, kind="stable")
    confusion = np.zeros((20, 20), np.int64)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    right = order[:, 0] == labels
    result = score(p, labels, 1)
    assert result.top1_error == float(1 - right.mean())
    assert result.top5_error == float(1 - (order[:, :5] == labels[:, None]).any(1).mean())
    assert result.confusion == tuple(map(tuple, confusion.tolist()))
    loss = -np.log(np.maximum(p[rows, labels].astype(np.float64), 1e-30)).mean()
    np.testing.assert_equal(result.loss, float(loss))
    assert result.class_errors == tuple(1 - confusion.diagonal() / confusion.sum(1))
    without = score(p, labels, 1, confusion=False)
    assert (without.confusion, without.class_errors) == ((), result.class_errors)
    assert says_top5(without)


@pytest.mark.parametrize("batch", [1, 7, 30, 64])
def test_every_image_counts_once_for_any_batch_size(store: Path, run: Path, batch: int) -> None:
    trained, split = load(run), Store(store).split("val")
    nets, test = [(trained.net, trained.preprocess)], Augment(test_patches="centre")
    result, whole = measure(nets, split, test, batch), measure(nets, split, test, 30)
    assert [sum(row) for row in result.confusion] == np.bincount(split.labels).tolist()
    assert result.confusion == whole.confusion
    # A batch of another size may be summed in another order.
    assert result.loss == pytest.approx(whole.loss, rel=1e-5)
    assert result.top1_error == pytest.approx(
        1 - sum(result.confusion[c][c] for c in range(10)) / 30
    )


def test_ten_crop_probabilities_are_the_mean_of_ten_softmaxes(store: Path, run: Path) -> None:
    trained, split = load(run), Store(store).split("val")
    from alexnet.data.loader import batches

    images = next(batches(split, np.arange(4), 4)).images
    mean = trained.preprocess.centre_mean.permute(2, 0, 1)
    total = torch.zeros(4, 10)
    for y, x in ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4)):
        crop = images[:, y : y + 32, x : x + 32].permute(0, 3, 1, 2).float()
        for view in (crop, crop.flip(3)):
            with torch.no_grad():
                total += F.softmax(trained.net(view - mean), 1)
    got = probabilities(trained.net, trained.preprocess, images, Augment())
    # Two memory formats sum in a different order.
    torch.testing.assert_close(got, total / 10, rtol=1e-4, atol=1e-6)


def test_ensemble_that_no_process_computes_as_its_members_are_is_refused(
    store: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA, where a run keeps the precision that it was trained with."""
    precisions = iter(("tf32", "float32", "tf32", "bfloat16"))
    monkeypatch.setattr(
        "alexnet.evaluation.precision_of_use", lambda config, device: next(precisions)
    )
    with pytest.raises(RunError, match="some of the runs are used in tf32 and others in float32"):
        evaluate([run, run], store)
    switched: list[str] = []
    monkeypatch.setattr("alexnet.evaluation.allow_tf32", switched.append)
    assert len(evaluate([run, run], store)) == 2
    # Whichever of them was loaded last.
    assert switched == ["tf32"]


def test_ensemble_averages_probabilities(store: Path, run: Path, tmp_path: Path) -> None:
    fit(tiny(store, seed=1), tmp_path / "other")
    split = Store(store).split("val")
    nets = [load(run), load(tmp_path / "other")]
    both = measure([(n.net, n.preprocess) for n in nets], split, Augment(test_patches="centre"))
    from alexnet.data.loader import batches

    images = next(batches(split, np.arange(30), 30))
    separate = [
        probabilities(n.net, n.preprocess, images.images, Augment(test_patches="centre"))
        for n in nets
    ]
    want = score(((separate[0] + separate[1]) / 2).numpy(), images.labels.numpy(), 1)
    assert both.confusion == want.confusion
    assert both.loss == pytest.approx(want.loss, rel=1e-5)


def test_evaluate_averages_all_given_runs(store: Path, run: Path, tmp_path: Path) -> None:
    fit(tiny(store, seed=1), tmp_path / "other")
    runs = [run, tmp_path / "other"]
    nets = [(trained.net, trained.preprocess) for trained in map(load, runs)]
    want = measure(nets, Store(store).split("val"), Augment(test_patches="centre"))
    result = evaluate(runs, store)[0]
    assert result.confusion == want.confusion
    assert result.loss == pytest.approx(want.loss)
    assert result.loss != pytest.approx(evaluate([run], store)[0].loss)


def test_training_metrics_agree_with_evaluate(store: Path, run: Path) -> None:
    from alexnet.train.run_log import read_metrics

    # One run may stand for a list of one, and its own store need not be named.
    results = evaluate(str(run))
    assert results == evaluate([run], store)
    centre = results[0]
    last = read_metrics(run, "epoch")[-1]
    assert centre.top1_error == pytest.approx(last["val_error"])
    assert centre.loss == pytest.approx(last["val_loss"], rel=1e-5)


def test_other_image_sizes_and_missing_runs_are_refused(
    store: Path, run: Path, tmp_path: Path
) -> None:
    prepare(shapes.source(20, 10), tmp_path / "store", StoreSettings(size_px=48))
    with pytest.raises(ValueError, match=r"needs images of 40 pixels, and .* has 48"):
        evaluate([run], tmp_path / "store")
    with pytest.raises(ValueError, match="nothing does not exist; give the folder of a run"):
        evaluate([tmp_path / "nothing"], store)
    with pytest.raises(ValueError, match="at least one run"):
        evaluate([], store)
