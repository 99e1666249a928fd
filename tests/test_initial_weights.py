"""Training from the weights of another run: which layers are copied, and what is reported."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from alexnet import checkpoint
from alexnet.config import (
    Conv,
    FullyConnected,
    Sgd,
    StepSchedule,
)
from alexnet.data.store import Store
from alexnet.distributed.mesh import ALONE, Mesh
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import RunError
from alexnet.train.setup import set_up, start_from
from alexnet.train.start import fit, resume
from tests.conftest import tiny, tiny_architecture
from tests.runs import IMPORTED

T = TypeVar("T")


def test_init_copies_matching_layers_and_reports_them(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(store, init=str(run), schedule=StepSchedule(1))
    layers = [
        replace(layer, units=16)
        if isinstance(layer, FullyConnected) and layer.name == "fc7"
        else layer
        for layer in config.architecture.layers
    ]
    config = replace(
        config, architecture=replace(config.architecture, layers=tuple(layers)), sgd=Sgd(16, lr=0)
    )
    fit(config, tmp_path / "run")
    output = capsys.readouterr().err
    assert f"from {run}: conv1, conv2, conv3, conv4, fc6; started anew: fc7, fc8" in output
    # A layer that is not taken may be another one.
    assert "settings that differ" not in output
    mine, theirs = checkpoint.read(tmp_path / "run").weights, checkpoint.read(run).weights
    assert torch.equal(mine["conv4.weight"], theirs["conv4.weight"])


def test_last_layer_is_copied_only_if_the_classes_are_the_same(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A last layer of the same shape but for other classes is not copied."""
    frozen = {"sgd": Sgd(16, lr=0), "schedule": StepSchedule(1)}
    theirs = checkpoint.read(run)
    fit(tiny(store, init=str(run), **frozen), tmp_path / "same")
    assert torch.equal(
        checkpoint.read(tmp_path / "same").weights["fc8.weight"], theirs.weights["fc8.weight"]
    )
    # A name of the same class, with the accent as a character of its own.
    names = [*Store(store).classes[:9], "B\u00e4r"]
    about = theirs.about | {"classes": [*names[:9], "Ba\u0308r"]}
    decomposed = tmp_path / "decomposed.safetensors"
    checkpoint.write(decomposed, theirs.weights, {}, theirs.mean, about)
    setup = set_up(tiny(store, init=str(decomposed), **frozen), Store(store), ALONE)
    setup.store.classes[9] = names[9]
    assert start_from(setup)[0].endswith("started anew: nothing")
    about = theirs.about | {"classes": [f"other {i}" for i in range(10)]}
    other = tmp_path / "other.safetensors"
    checkpoint.write(other, theirs.weights, {}, theirs.mean, about)
    capsys.readouterr()
    fit(tiny(store, init=str(other), **frozen), tmp_path / "new")
    assert "started anew: fc8 (the classes differ" in capsys.readouterr().err
    with pytest.raises(RunError, match="trained on other classes, so fc8 cannot be taken from it"):
        fit(tiny(store, init=str(other), init_layers=("fc8",), **frozen), tmp_path / "none")
    mine = checkpoint.read(tmp_path / "new").weights
    assert torch.equal(mine["fc7.weight"], theirs.weights["fc7.weight"])
    assert torch.equal(
        mine["fc8.weight"],
        ShardedNetwork(tiny_architecture(), 0, ALONE).get_parameter("fc8.weight"),
    )


def test_a_start_that_gives_no_layer_is_refused(store: Path, run: Path, tmp_path: Path) -> None:
    """Training from scratch would look like fine-tuning."""
    wider = replace(tiny_architecture(), width=2 * tiny_architecture().width)
    with pytest.raises(RunError, match=r"no layer of .* has the shape .* leave --init out"):
        fit(tiny(store, init=str(run), architecture=wider), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_that_differ_from_those_of_the_start_are_named(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their weights have the same shapes, and give other values."""
    config = tiny(store, init=str(run), schedule=StepSchedule(1))
    first, *others = config.architecture.layers
    assert isinstance(first, Conv)
    # The initial values do not count, since they are replaced.
    reordered = replace(first, then=("activation", "lrn", "max_pool"), std=0.5, bias=3.0)
    architecture = replace(
        config.architecture,
        layers=(reordered, *others),
        lrn=replace(config.architecture.lrn, k=1.0),
        bias=1.0,
    )
    augment = replace(config.augment, mean="pixel", crops=False)
    fit(replace(config, architecture=architecture, augment=augment), tmp_path / "run")
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if "settings that differ" in line
    ]
    assert line.startswith(
        f"settings that differ from those of {run}: layers.conv1.then, lrn.k 2 -> 1, "
        "augment.mean centre -> pixel; to keep those of that run: "
    )
    assert line.endswith(f" train {run}/config.json")


def test_the_weights_that_a_run_began_with_are_in_its_header_and_on_its_card(
    store: Path, run: Path, tmp_path: Path
) -> None:
    """Also after it was resumed, and when its start had a start of its own."""
    theirs = checkpoint.read(run)
    imported = {"imported": IMPORTED}
    start = tmp_path / "start.safetensors"
    checkpoint.write(start, theirs.weights, {}, theirs.mean, theirs.about | imported)
    frozen = {"sgd": Sgd(16, lr=0), "schedule": StepSchedule(1)}
    fit(tiny(store, init=str(start), init_layers=("conv1", "fc6"), **frozen), tmp_path / "tuned")
    resume(tmp_path / "tuned", epochs=2)
    tuned = checkpoint.read(tmp_path / "tuned").about
    assert tuned["position"]["epoch"] == 2
    first = {"run": str(start), "sha256": theirs.about["sha256"], "layers": ["conv1", "fc6"]}
    assert tuned["init"] == first | imported
    fit(tiny(store, init=str(tmp_path / "tuned"), **frozen), tmp_path / "again")
    again = checkpoint.read(tmp_path / "again").about
    assert again["init"]["sha256"] == tuned["sha256"]
    assert again["init"]["init"] == tuned["init"]
    card = (tmp_path / "again" / "card.md").read_text()
    assert f"| began with | `{tmp_path}/tuned`: `conv1`, `conv2`, `conv3`, `conv4`, `fc6`" in card
    assert f"| began with | `{start}`, imported from `alexnet.pth`: `conv1`, `fc6` |" in card
    assert f"| sha256 of those weights | `{tuned['sha256']}` |" in card
    assert "| sha256 of that file | `0123` |" in card
    assert "init" not in theirs.about


def test_ranks_compare_the_weights_that_they_begin_with_and_not_their_messages(
    store: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message has a command as it is typed on the machine of its rank."""
    start = Path(shutil.copytree(run, tmp_path / "start"))
    config = tiny(store, init=str(start), augment=replace(tiny(store).augment, mean="pixel"))
    compared: list[dict[str, str]] = []

    def alone(_: Mesh, make: Callable[[], T], fingerprint: Callable[[T], dict[str, str]]) -> T:
        made = make()
        compared.append(fingerprint(made))
        return made

    monkeypatch.setattr("alexnet.train.start.check_same_on_all_ranks", alone)
    monkeypatch.setattr("alexnet.train.start.train", lambda *_: {})
    for program in ("alexnet", "python -m alexnet"):
        monkeypatch.setattr("alexnet.train.setup.command", lambda *_, typed=program: typed)
        fit(config, tmp_path / program)
    saved = checkpoint.read(start)
    other = {name: weight + 1 for name, weight in saved.weights.items()}
    checkpoint.write(start / "last.safetensors", other, {}, saved.mean, saved.about)
    fit(config, tmp_path / "other")
    # Before the weights, the settings and the store are compared.
    first, second, third = compared[1::2]
    assert first == second
    assert first != third


def test_init_layers_limits_the_copied_layers(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(store, init=str(run), init_layers=("conv1", "fc6"), sgd=Sgd(16, lr=0))
    fit(replace(config, schedule=StepSchedule(1)), tmp_path / "run")
    output = capsys.readouterr().err
    assert f"from {run}: conv1, fc6; started anew: conv2, conv3, conv4, fc7, fc8" in output
    mine, theirs = checkpoint.read(tmp_path / "run").weights, checkpoint.read(run).weights
    assert torch.equal(mine["fc6.weight"], theirs["fc6.weight"])
    assert not torch.equal(mine["conv2.weight"], theirs["conv2.weight"])
    with pytest.raises(ValueError, match="init_layers names 'conv9'; the layers are conv1"):
        fit(replace(config, init_layers=("conv9",)), tmp_path / "none")
