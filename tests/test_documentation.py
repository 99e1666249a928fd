"""Documented commands, links, make targets and examples are valid."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

from alexnet import load, recipes
from alexnet.checkpoint import state_of, write_config
from alexnet.cli import function_of
from alexnet.config import Config, StoreSettings
from alexnet.config_checks import check
from alexnet.data.loader import batches
from alexnet.data.prepare import prepare
from alexnet.data.sources.source import Options
from alexnet.inference import activations, read_image
from alexnet.model import Network
from alexnet.provenance import VERSION
from alexnet.train.sgd import PlateauState, param_hyper
from benchmarks.__main__ import main as benchmarks_main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "conformance" / "README.md", *sorted((ROOT / "records").glob("*/README.md"))]


class Parsed(Exception):
    """Raised in place of running a command whose arguments are valid."""


def documented_commands(page: Path, program: str = r"(?:\.venv/bin/)?alexnet") -> list[list[str]]:
    """The arguments of each `alexnet VERB ...` line in the fenced blocks of a page."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    matches = [re.match(rf"\s*{program} (\S.*)", line) for line in lines]
    return [shlex.split(match.group(1), comments=True) for match in matches if match]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_documented_commands_parse(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # `alexnet train IMAGES` is told from a recipe by the folder.
    (tmp_path / "IMAGES").mkdir()
    # A config.json decides what the options are.
    (tmp_path / "runs" / "slim").mkdir(parents=True)
    write_config(tmp_path / "runs" / "slim", recipes.torchvision())
    monkeypatch.chdir(tmp_path)
    parse = tyro.cli

    def parse_only(*arguments: Any, **options: Any) -> None:
        parse(*arguments, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse_only)
    for verb, *arguments in documented_commands(page):
        with pytest.raises(Parsed):
            function_of(verb)(arguments)
    for arguments in documented_commands(page, "python -m benchmarks"):
        with pytest.raises(Parsed):
            benchmarks_main(arguments)


def test_the_readme_documents_the_verbs_of_a_first_session() -> None:
    verbs = {command[0] for command in documented_commands(ROOT / "README.md")}
    assert {"prepare", "train", "evaluate", "predict", "figure", "reproduce"} <= verbs


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_point_to_existing_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for target in re.findall(r"^make ([\w-]+)", "\n".join(blocks), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


def test_every_recipe_is_in_the_table_of_recipes() -> None:
    lines = (ROOT / "docs" / "recipes.md").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = "".join(takewhile(lambda line: line.startswith("|"), lines[first:]))
    assert [name for name in recipes.__all__ if f"`{name}" not in table] == []


def test_documented_examples_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"examples/(\w+\.py)", page.read_text()):
            assert (ROOT / "examples" / name).is_file(), name


def python_blocks(page: str) -> list[dict[str, Any]]:
    """The namespace of each Python block of a page, after running the block."""
    namespaces = []
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S):
        namespaces.append({"__name__": "block"})
        exec(compile(block, page, "exec"), namespaces[-1])
    return namespaces


def test_walkthroughs_in_contributing_run(tmp_path: Path) -> None:
    with_claim, with_source = python_blocks("CONTRIBUTING.md")
    claim = with_claim["claim"]
    configs = [claim.config(arm, "smoke", "photographs") for arm in claim.arms]
    assert [config.sgd.weight_decay for config in configs] == [0.0005, 0.0]

    np.save(tmp_path / "images.npy", np.zeros((20, 32, 32, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(20) % 2)
    source = with_source["numpy_arrays"](tmp_path, Options(val_fraction=0.2))
    manifest = prepare(source, tmp_path / "store", StoreSettings(), workers=1)
    assert manifest["classes"] == ["0", "1"]
    assert {n: s["images"] for n, s in manifest["splits"].items()} == {"train": 16, "val": 4}


def test_the_python_of_the_page_about_looking_inside_runs(
    run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "store").symlink_to(store)
    monkeypatch.chdir(tmp_path)
    of_store, seen, prepared, lesions = python_blocks("docs/inside.md")
    trained = load(run)
    stored = next(batches(of_store["val"], np.array([17]), 1)).images[0].numpy()
    np.testing.assert_array_equal(read_image("wrong.jpg", 40), stored)

    assert (seen["box"].top, seen["box"].bottom) < (seen["x"].shape[1],) * 2

    # An image in the middle of one of the stored size reaches the network pixel by pixel.
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    framed = np.zeros((40, 40, 3), np.uint8)
    framed[4:36, 4:36] = pixels
    Image.fromarray(framed).save("framed.png")
    trained.preprocess.dtype = torch.bfloat16
    x = prepared["network_input"](trained, "framed.png")
    trained.preprocess.dtype = torch.float32
    assert torch.equal(x, trained.preprocess.centre(torch.from_numpy(framed)[None]))
    assert torch.equal(x, prepared["input_of"](trained, [framed]))
    np.testing.assert_array_equal(trained.preprocess.centre_pixels(framed), pixels)

    # This network has four convolutions.
    trained.net.relu5 = trained.net.relu4
    whole = lesions["error_without"](trained, [])
    assert lesions["error_without"](trained, slice(None)) == pytest.approx(0.9)
    assert lesions["error_without"](trained, []) == whole

    x = prepared["network_input"](trained, "wrong.jpg")
    hooked: list[torch.Tensor] = []
    with trained.net.relu3.register_forward_hook(lambda module, inputs, y: hooked.append(y)):
        trained.net(x)
    want = activations(trained, ["conv3"], x)["conv3"]
    torch.testing.assert_close(hooked[0], want, rtol=0, atol=1e-6)


def test_the_readout_of_the_page_about_weights_trains_the_last_layer_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[Config] = []
    monkeypatch.setattr("alexnet.fit", lambda config, run: begun.append(config), raising=False)
    python_blocks("docs/weights.md")
    (config,) = begun
    check(config)
    assert config.schedule.epochs == 10
    for name in state_of(Network(replace(config.architecture, width=1 / 16))):
        rate = param_hyper(config, name, 0, PlateauState()).lr
        assert rate == (config.sgd.lr if name.startswith("fc8.") else 0.0), name


def test_the_citation_names_the_version_of_the_package() -> None:
    """And has what version 1.2.0 of the format requires."""
    entries = dict(re.findall(r"^([\w-]+): *(.*)$", (ROOT / "CITATION.cff").read_text(), re.M))
    assert entries["version"] == VERSION
    assert entries["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license", "references"} <= entries.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (entries["version"], entries["license"]) == (project["version"], project["license"])
