"""The card of a run: whose errors it has, and what it says of weights that see nothing."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet import card, checkpoint, evaluation, load
from alexnet.checkpoint import read as read_checkpoint
from alexnet.checkpoint import state_of, write
from alexnet.cli import main
from alexnet.diagnostics import BLIND, new_shares, signal, smoothness
from alexnet.errors import RunError
from alexnet.evaluation import Result, evaluate
from alexnet.model import Network
from alexnet.saved_config import to_dict
from alexnet.train.start import fit
from alexnet.weights.importing import import_weights
from tests import frameworks
from tests.commands import printed
from tests.conftest import tiny
from tests.runs import IMPORTED
from tests.test_batch_norm import architecture
from tests.weight_files import (
    CLASSES,
    WIDTH,
    caffe_architecture,
    caffe_file,
)


def test_errors_belong_to_the_weights_that_were_measured(
    copied_run: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A training saves other weights while the evaluation of the first ones goes on."""
    before = checkpoint.read(copied_run)
    measure = evaluation.measure

    def measured_beside_a_training(*arguments: object, **options: object) -> Result:
        net = Network(before.config.architecture, 99)
        file = copied_run / "last.safetensors"
        checkpoint.write(file, state_of(net), {}, before.mean, before.about)
        return measure(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "measure", measured_beside_a_training)
    main(["evaluate", str(copied_run), "--data", str(store), "--json"])
    assert checkpoint.read(copied_run).about["sha256"] != before.about["sha256"]
    known = card.evaluations(copied_run)
    assert [one["sha256"] for one in known] == [before.about["sha256"]] * 2
    results = json.loads(capsys.readouterr().out)
    assert [result["weights_sha256"] for result in results] == [[before.about["sha256"]]] * 2
    # The errors of other weights are not on the card of these.
    assert "measured by `alexnet evaluate`" not in (copied_run / "card.md").read_text()


def test_same_test_again_is_one_line_of_the_card(copied_run: Path, store: Path) -> None:
    for _ in range(2):
        main(["evaluate", str(copied_run), "--data", str(store)])
    assert [about["patches"] for about in card.evaluations(copied_run)] == [1, 10]


def test_two_evaluations_at_once_are_both_kept(
    copied_run: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = evaluate([copied_run], store)[:1]
    real, others = card.evaluations, list[threading.Thread]()
    monkeypatch.setattr(card, "write_card", lambda run: None)

    def read(run: Path) -> list[dict[str, Any]]:
        known = real(run)
        if not others:
            arguments = copied_run, "second", "second", "val", results
            others.append(threading.Thread(target=card.add_evaluation, args=arguments))
            others[0].start()
            # Time for it to read and write, if nothing makes it wait.
            others[0].join(0.3)
        return known

    monkeypatch.setattr(card, "evaluations", read)
    card.add_evaluation(copied_run, "first", "first", "val", results)
    others[0].join()
    assert [about["data"] for about in real(copied_run)] == ["first", "second"]


def test_names_that_are_not_utf_8_are_on_the_card(
    run: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "caf\udce9").symlink_to(store)
    copied = Path(shutil.copytree(run, tmp_path / "r\udcff"))
    monkeypatch.chdir(copied)
    main(["evaluate", ".", "--data", str(tmp_path / "caf\udce9")])
    assert capsys.readouterr().err == ""
    text = (copied / "card.md").read_text()
    assert text.startswith("# r\\udcff\n")
    assert "/caf\\udce9`" in text
    with pytest.raises(RunError, match=r"^the path .* is not valid UTF-8; rename the folder"):
        load(copied)
    with pytest.raises(RunError, match=r"^the path .* is not valid UTF-8; rename the folder"):
        fit(tiny(store), tmp_path / "new\udcff")
    # The name of an imported file and of its mean are in the header of the checkpoint.
    np.savez(tmp_path / "net.npz", **frameworks.caffe_blobs(1, WIDTH, CLASSES))
    np.save(tmp_path / "mean.npy", np.full(3, 120, np.float32))
    file = (tmp_path / "net.npz").rename(tmp_path / "net\udcff.npz")
    mean = (tmp_path / "mean.npy").rename(tmp_path / "mean\udcff.npy")
    with pytest.raises(RunError, match=r"^the path .* is not valid UTF-8; rename the folder"):
        import_weights(file, tmp_path / "new\udcff", "caffenet", mean=mean)
    about = import_weights(file, tmp_path / "imported", "caffenet", mean=mean)["imported"]
    assert (about["file"], about["mean"]) == ("net\\udcff.npz", "mean\\udcff.npy")


def test_names_neither_end_a_cell_of_the_card_nor_are_markdown(
    copied_run: Path, store: Path
) -> None:
    saved, results = checkpoint.read(copied_run), evaluate([copied_run], store)[:1]
    card.write_card(copied_run, "a\nb")
    assert (copied_run / "card.md").read_text().startswith("# a b\n")
    names = [f"<b>{i}|\n[x](y) `z`" for i in range(10)]
    config = saved.about["config"] | {"data": "photos|2026"}
    imported = {"file": "a|b.pth", "sha256": "c", "format": "PyTorch", "network": "n"}
    imported |= {"mean": "m|*n*.npy", "channels": "RGB"}
    init = {"init": {"run": "r", "sha256": "s", "layers": ["<b>"]}}
    evaluation = {"evaluation": saved.about["evaluation"] | {"split": "a`<b>"}}
    for more in ({}, {"imported": imported}, init | evaluation):
        about: dict[str, Any] = saved.about | {"classes": names, "config": config} | more
        checkpoint.write(saved.file, saved.weights, {}, saved.mean, about)
        card.add_evaluation(copied_run, "st|ore", "checksum", "v|al", results)
        text = (copied_run / "card.md").read_text()
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
        (classes,) = [row for row in rows if row.startswith("| classes ")]
        assert classes.startswith("| classes | `<b>0\\| [x](y) 'z'`, `<b>1")
        mean = "| mean | `m\\|*n*.npy`; its channels are RGB |"
        assert (mean in rows) == ("imported" in more)
        assert ("| began with | `r`: `<b>` |" in rows) == ("init" in more)
        assert ("(center crop, `a'<b>`)" in text) == ("init" in more)


def test_an_ensemble_names_the_weights_of_each_run(run: Path, store: Path) -> None:
    sha256 = checkpoint.read(run).about["sha256"]
    assert evaluate([run, run], store)[0].weights_sha256 == (sha256, sha256)


@pytest.mark.parametrize("damaged", ["evaluations.jsonl", "best.safetensors"])
def test_errors_are_printed_though_they_cannot_be_kept(
    damaged: str, copied_run: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied_run / damaged).write_bytes(b"{")
    main(["evaluate", str(copied_run), "--data", str(store)])
    streams = capsys.readouterr()
    assert streams.out.startswith("center crop: top-1 error ")
    (line,) = streams.err.splitlines()
    assert line.startswith(f"warning: {copied_run}/card.md was not written: ")
    assert damaged in line


def test_run_with_its_best_checkpoint_alone_is_checked(
    copied_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied_run / "last.safetensors").unlink()
    card.write_card(copied_run)
    lines = printed(capsys, "check", copied_run)
    assert f"{copied_run}/best.safetensors: trained? " in lines
    assert f"{copied_run}/card.md: of these weights" in lines


def test_card_says_that_a_network_is_blind_at_test_time(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the statistics of a batch it would see; these statistics hide every image."""
    about = checkpoint.read(run)
    net = Network(architecture(), 0)
    images = 50 * torch.randn(6, 3, 32, 32)
    for name, tensor in state_of(net).items():
        if name.endswith("running_var"):
            tensor.fill_(1e30)
    assert signal(net, images, batch_statistics=True)[-2].difference > BLIND
    assert signal(net, images)[-2].difference < BLIND
    config = about.about["config"] | {"architecture": to_dict(net.architecture)}
    header = about.about | {"config": config}
    checkpoint.write(tmp_path / "a.safetensors", state_of(net), {}, about.mean, header)
    main(["check", str(tmp_path / "a.safetensors")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "two of 6 built-in images differ by 0.0% in fc7" in printed
    assert "in fc7: the network is nearly blind to its input." in printed


@pytest.mark.parametrize("side_px", [2, 3, 11])
def test_random_filters_of_any_size_are_called_random(side_px: int) -> None:
    noise = torch.randn(512, 3, side_px, side_px)
    correlation, pairs = smoothness(noise)
    assert abs(correlation) < 4 / pairs**0.5


def test_smooth_filters_are_said_not_to_be_random(run: Path, tmp_path: Path) -> None:
    saved = checkpoint.read(run)
    weights = dict(saved.weights)
    first = weights["conv1.weight"]
    weights["conv1.weight"] = torch.linspace(-1, 1, first.shape[-1]).expand_as(first).contiguous()
    about = saved.about | {"imported": IMPORTED}
    checkpoint.write(tmp_path / "a.safetensors", weights, {}, saved.mean, about)
    first_sentence = card.verdict(checkpoint.read(tmp_path / "a.safetensors"))[0]
    wanted = "Probably: the first filters are not independent random numbers."
    assert first_sentence == wanted


def test_card_says_that_nothing_could_be_tested_where_there_are_no_filters(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = checkpoint.read(run)
    monkeypatch.setattr(card, "_smooth", lambda net: (None, "The first layer has no filters."))
    for is_new, sentence in (
        (True, "Yes: they differ from their start."),
        (None, "Not known: nothing could be tested."),
    ):
        monkeypatch.setattr(card, "_against_start", lambda *_, new=is_new: (new, ""))
        assert card.verdict(saved)[0] == sentence


def test_a_run_has_a_card_and_check_says_whether_it_is_trained(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit(tiny(store), run)
    card = (run / "card.md").read_text()
    saved = read_checkpoint(run)
    for part in (
        "# run\n",
        f"| trained on | `{store}`, checksum `{saved.about['store'][:12]}` |",
        f"| sha256 of the weights of `last.safetensors` | `{saved.about['sha256']}` |",
        "top-1 error",
        "| code | alexnet ",
        "- Yes: they differ from their start",
        "is new against the start that seed",
    ):
        assert part in card, part
    assert "measured by `alexnet evaluate`" not in card
    main(["evaluate", str(run), "--data", str(store)])
    assert "measured by `alexnet evaluate` | top-1 error" in (run / "card.md").read_text()
    capsys.readouterr()
    main(["check", str(run)])
    printed = capsys.readouterr().out
    assert "trained? Yes: they differ from their start" in printed
    assert f"{run}/card.md: of these weights" in printed
    # The weights of the same file as the seed draws them.
    start = Network(saved.config.architecture, saved.config.seed)
    write(run / "last.safetensors", dict(start.named_parameters()), {}, saved.mean, saved.about)
    main(["check", str(run)])
    printed = capsys.readouterr().out
    assert "trained? No: the weights are the start that the seed draws." in printed
    assert f"{run}/card.md: of other weights; `alexnet evaluate` writes it anew" in printed


def test_imported_random_weights_are_called_random(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = caffe_file(tmp_path / "a.caffemodel", frameworks.caffe_blobs(1, WIDTH, CLASSES), False)
    main(["import", str(path), str(tmp_path / "run")])
    capsys.readouterr()
    main(["check", str(tmp_path / "run")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "trained? Probably not: nothing that was tested tells them from random" in printed
    assert "The start is not known: the weights were imported." in printed
    card = (tmp_path / "run" / "card.md").read_text()
    assert "imported from | `a.caffemodel` (Caffe), Caffe's AlexNet (bvlc_alexnet)" in card


def test_new_shares_and_smoothness_tell_learning_from_decay() -> None:
    architecture = caffe_architecture(False)
    start, net = Network(architecture, 1), Network(architecture, 1)
    with torch.no_grad():
        for weight in net.parameters():
            weight *= 0.5
    assert max(new_shares(net, start).values()) < 1e-6
    assert min(new_shares(Network(architecture, 2), start).values()) > 0.9
    # `test_random_filters_of_any_size_are_called_random` has the noise.
    edges = torch.linspace(-1, 1, 11).expand(96, 3, 11, 11)
    assert smoothness(edges)[0] > 0.5
