"""The commands of claims at full scale, and the table of all claims."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from alexnet.cli import main
from alexnet.cli.arguments import parse
from alexnet.cli.evaluate import EvaluateArguments
from alexnet.cli.prepare import PrepareArguments
from alexnet.cli.reproduce import ReproduceArguments
from alexnet.cli.train import parse_train
from alexnet.experiments import document
from alexnet.experiments.claim import Claim
from alexnet.experiments.claims import CLAIMS, chosen
from tests import layouts
from tests.commands import refused

ROOT = Path(__file__).parents[1]


def test_without_arguments_the_table_names_every_claim(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["reproduce", "--records", str(tmp_path)])
    table_text = " ".join(capsys.readouterr().out.split())
    assert f"{tmp_path} has no records" in table_text
    for claim in CLAIMS:
        assert f"{claim.id}: {claim.printed_statement}" in table_text


def test_document_needs_a_folder_and_the_page_names_that_of_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    nowhere = tmp_path / "none" / "claims.md"
    sentence = refused(capsys, "reproduce", "--document", nowhere)
    assert f"{nowhere} cannot be written: there is no folder {nowhere.parent}" in sentence
    document, page = tmp_path / "claims.md", tmp_path / "page.html"
    files = ["--document", str(document), "--report", str(page)]
    main(["reproduce", "--records", str(empty), *files])
    assert f"{empty} has no records" in page.read_text()
    # There is nothing to draw.
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "claims.md", "page.html"}


def test_every_claim_on_tiny_imagenet_is_trained_by_one_command() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = re.search(r"^CLAIMS \?= (.*)$", makefile, re.MULTILINE)
    assert named is not None
    assert sorted(named[1].split()) == sorted(
        claim.id for claim in CLAIMS if "tiny-imagenet" in claim.kinds
    )


@pytest.mark.parametrize(("code", "begun"), [(2, ["first", "second"]), (130, ["first"])])
def test_one_failed_claim_does_not_stop_the_others_and_an_interruption_does(
    code: int, begun: list[str], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$4"\nexit {code}\n')
    python.chmod(0o755)
    made = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "claims-gpu",
            f"PYTHON={python}",
            "CLAIMS=first second",
            "DATA=store",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 2
    assert made.stdout.split() == begun
    assert ("these claims have failed: first second" in made.stderr) == (code == 2)


VERBS = {
    "prepare": PrepareArguments,
    "evaluate": EvaluateArguments,
    "reproduce": ReproduceArguments,
}


def commands(claim: Claim) -> list[str]:
    """The arguments of each `alexnet` command for the setting of the paper, for seed 1."""
    matches = re.findall("alexnet ([^;]+)", "; ".join(document.not_run(claim, [])))
    return [command.replace("$n", "1") for command in matches]


def test_commands_of_claims_that_were_not_run_can_be_parsed() -> None:
    for claim in CLAIMS:
        for command in commands(claim):
            verb, *rest = command.split()
            if verb == "train":
                assert parse_train(rest[0], rest[1:]).config.recipe == rest[0]
            else:
                assert isinstance(parse(VERBS[verb], verb, rest), VERBS[verb])


def test_commands_train_the_recipes_behind_the_papers_numbers() -> None:
    trained = {
        claim.id: [command.split()[1] for command in commands(claim) if "train " in command]
        for claim in CLAIMS
        if claim.manual_commands
    }
    assert trained == {
        "pretrain": ["original", "pre_trained", "fine_tuned"],
        "ilsvrc2010": ["original_2010"],
        "ilsvrc2012": ["original"],
        "seven": ["original", "pre_trained", "fine_tuned"],
    }
    (of_2010,) = chosen(["ilsvrc2010"])
    assert of_2010.manual_commands[-1].endswith("--split test")


@pytest.mark.slow
def test_pre_training_commands_run_on_small_stand_in_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, write in (("ARCHIVES", layouts.archives), ("FALL_2011", layouts.class_tars)):
        Path(name).mkdir()
        write(Path(name))
    (claim,) = chosen(["pretrain"])
    smaller = {
        "prepare": ["--size-px", "256"],  # the stand-ins have 40 pixels
        "train": ["--epochs", "1", "--architecture.width", "0.0625", "--device", "cpu"],
    }
    for command in commands(claim):
        # Of the four images of a class, one hundredth would be none.
        verb, *rest = command.replace("--val-fraction 0.01", "--val-fraction 0.3").split()
        main([verb, *rest, *smaller.get(verb, [])])
    output = capsys.readouterr().err
    taken = re.findall(r"from runs/(.*?-1): (.*)", output)
    assert [run for run, _ in taken] == ["net-1", "all-1"]
    assert "conv5" in taken[0][1]
    assert "conv6" in taken[1][1]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["all-1", "net-1", "tuned-1"]
