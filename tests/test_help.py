"""Help fits a screen, and options that other tools have are understood or answered."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alexnet import own_images, recipes
from alexnet.cli import VERBS
from alexnet.cli.arguments import Names, parse
from alexnet.cli.evaluate import EvaluateArguments, confusion_table
from alexnet.cli.help import help_page
from alexnet.cli.mistakes import sentence
from alexnet.cli.options import ACCEPTED, OTHER_NAMES, fields_of, understood
from alexnet.cli.prepare import PrepareArguments
from alexnet.cli.short_help import SUMMARY_GROUPS, TRAIN_GROUPS, Setting, default_of
from alexnet.cli.train import parse_train
from alexnet.terminal import entry, paragraphs, wrapped
from tests.commands import printed, refused

WIDTHS = {"80": 45, "100": 40}
"""The number of lines that a page of help may have, by the width of the terminal."""


PAGES = [
    [],
    *([verb, "--help"] for verb in VERBS),
    ["train", "--resume", "run", "--help"],
    *(["train", name, "--help"] for name in recipes.__all__),
    ["summary", "original", "--help"],
]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_help_fits_a_screen_and_breaks_no_word(
    page: list[str],
    columns: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    wide = printed(capsys, *page)
    assert max(map(len, wide.splitlines())) <= 100
    monkeypatch.setenv("COLUMNS", columns)
    text = printed(capsys, *page)
    assert len(text.splitlines()) <= WIDTHS[columns]
    assert max(map(len, text.splitlines())) <= int(columns)
    assert set(text.split()) <= set(wide.split())
    assert (page[0] if page else "VERB") in text
    assert "(required)" not in text
    assert "(default: )" not in text


def test_narrow_terminal_has_the_explanation_below_the_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert entry("--split NAME", "Split to test on.", 20) == [
        "  --split NAME",
        "      Split to test on.",
    ]
    assert wrapped("Number of threads (default: 0).") == ["Number of threads", "(default: 0)."]


def test_help_of_train_names_the_recipes_and_how_to_resume(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys, "train", "--help")
    assert text == printed(capsys, "train")
    for name in recipes.__all__:
        assert len(re.findall(rf"^  {name} +\S", text, re.MULTILINE)) == 1
    for option in ("--data STORE", "--out RUN", "--epochs INT", "--seed INT"):
        assert re.search(rf"^  {option}  +[A-Z]", text, re.MULTILINE), option
    assert "train --resume RUN" in text
    assert "--columns" in text
    assert "--columns INT" in printed(capsys, "train", "--resume", "--help")
    assert "Each field of the recipe is an option" in printed(capsys, "summary", "--help")


def test_item_of_a_list_begins_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    text = "Some figures.\n\n- one: short.\n- two: long enough for a second\n  line."
    assert paragraphs(text) == [
        "Some figures.",
        "",
        "- one: short.",
        "- two: long enough for a",
        "  second line.",
    ]


def test_help_comes_from_the_dataclass() -> None:
    text = help_page(EvaluateArguments, "evaluate")
    assert text.startswith("usage: alexnet evaluate RUN...")
    assert re.search(r"^  --json +Print JSON", text, re.MULTILINE)
    assert "--no-json" not in text
    text = " ".join(help_page(PrepareArguments, "prepare").split())
    assert "--val-fraction FLOAT Share of the images" in text
    assert "(default: 0.1)" in text
    # The settings of a store are fields of another dataclass.
    assert "--encoding auto|jpeg|png|ppm auto: lossless PNG" in text
    assert "--splits NAME..." in text


@dataclass(frozen=True)
class Switches:
    """Arguments with a switch."""

    names: Names = ()
    """Names."""
    force: bool = False
    """Replace what is there."""


@pytest.mark.parametrize(
    ("given", "force"),
    [
        (["--force"], True),
        (["--force", "True"], True),
        (["--force=true"], True),
        (["--no-force"], False),
        (["--force", "False"], False),
        (["--force=false"], False),
        ([], False),
    ],
)
def test_switches_are_understood_in_both_forms(given: list[str], force: bool) -> None:
    assert parse(Switches, "test", [*given, "--names", "a", "b"]) == Switches(("a", "b"), force)
    crops = [word.replace("force", "augment.crops") for word in given]
    if given:
        assert parse_train("demo", [*crops, "--seed", "1"]).config.augment.crops is force


def test_names_of_other_tools_are_accepted_for_the_fields_of_a_recipe() -> None:
    config = parse_train(
        "demo", ["--lr", "0.5", "--batch-size=7", "--momentum", "0.8", "--wd", "0.1"]
    ).config
    assert (config.sgd.lr, config.sgd.batch) == (0.5, 7)
    assert (config.sgd.momentum, config.sgd.weight_decay) == (0.8, 0.1)
    config = parse_train("demo", ["--width", "0.5", "--input_px", "96", "--seed", "-1"]).config
    assert (config.architecture.width, config.architecture.input_px) == (0.5, 96)
    assert config.seed == -1
    fields = fields_of(recipes.original())
    assert set(ACCEPTED.values()) <= set(fields)
    assert not set(ACCEPTED) & set(fields)
    for name in recipes.__all__:
        understood([f"--{short}" for short in ACCEPTED], fields_of(getattr(recipes, name)()), "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train demo --epoch 3", "there is no option --epoch; the nearest is --epochs"),
        ("train demo --bach 3", "there is no option --bach; the nearest is --sgd.batch"),
        ("train demo --lerning-rate 3", "no option --lerning-rate; the nearest is --sgd.lr"),
        ("train demo --sgd.momentun 3", "the nearest is --sgd.momentum"),
        ("train demo --sgd.bach=3", "there is no option --sgd.bach; the nearest is --sgd.batch"),
        ("train demo --quux 3", "there is no option --quux; all are listed by: alexnet train demo"),
        ("train demo --gpu", "there is no option --gpu; here it is --device cuda"),
        ("train demo --num-workers 3", "here it is --workers"),
        ("train demo --output runs/a", "here it is --out"),
        ("train demo --image-size 96", "here it is --architecture.input-px"),
        ("train demo --num-classes 3", "here it is --architecture.classes"),
        ("train demo --dropout 0", "--architecture.dropout.masks False turns it off"),
        ("train demo --no-dropout", "--architecture.dropout.masks False turns it off"),
        ("train demo --architecture.dropout 0", "--architecture.dropout.masks False turns it off"),
        ("train demo --lrn False", "--architecture.normalise False turns the normalizations off"),
        ("train demo --quux 3", "all are listed by: alexnet train demo --help-all"),
        ("train --resume run --bach 3", "there is no option --bach; all are listed by"),
        ("prepare a b --image-size 96", "here it is --size-px"),
        ("prepare a b --batch 96", "there is no option --batch"),
        ("evaluate run --jason", "there is no option --jason; the nearest is --json"),
        ("summary paper --image-size 96", "here it is --architecture.input-px"),
        ("reproduce -seeds2 3", "there is no option --seeds2; the nearest is --seeds"),
    ],
)
def test_unknown_option_is_answered_with_the_right_one_in_one_sentence(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *arguments.split())


def test_every_answer_names_an_option_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    pages = "".join(printed(capsys, verb, "--help") for verb in VERBS)
    options = set(re.findall(r"--([\w.-]+)", pages))
    options |= set(fields_of(recipes.original())) | {"out", "epochs"}
    for meant in OTHER_NAMES.values():
        for option in meant:
            assert option.split()[0] in options, option


def test_fields_of_a_recipe_are_the_options_of_the_parser(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that the parser has and the check does not know would be refused."""
    monkeypatch.setenv("COLUMNS", "80")
    # One for each kind of layer and of schedule.
    for name in ("original", "cifar_11", "fine_tuned", "paper", "modern"):
        text = printed(capsys, "summary", name, "--help-all")
        listed = set(re.findall(r"^[ │]+--([a-z][a-z0-9.-]*) ", text, re.MULTILINE)) - {"help"}
        of_the_verb = {"format", "dense"}
        assert of_the_verb < listed
        assert listed - of_the_verb <= set(fields_of(getattr(recipes, name)())), name


def test_table_and_list_of_confusions_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = [f"class {i}" for i in range(20)]
    confusion = [[500 if i == j else (i + j) % 3 for j in range(20)] for i in range(20)]
    for columns, kind in ((200, "predicted"), (100, "most often"), (80, "most often")):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = confusion_table(confusion, classes, [0.1, None] * 10)
        assert max(map(len, text.splitlines())) <= columns
        assert kind in text
    assert "class 0   10.0%  class 17 2, class 14 2, class 11 2" in text
    assert confusion_table([[3, 0], [0, 4]], ["a", "b"], [0.0, 0.0]).splitlines()[1:] == [
        "    error  predicted 0 1",
        "a    0.0%          0 3 .",
        "b    0.0%          1 . 4",
    ]


@pytest.mark.parametrize("columns", ["80", "100"])
def test_lines_of_summary_and_reproduce_fit(
    columns: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    records = Path(__file__).parents[1] / "records" / "claims"
    overview = printed(capsys, "reproduce", "--records", str(records))
    assert "full, CIFAR-10: 4.35 [3.54, 5.16] (paper: 6): same sign" in overview
    text = printed(capsys, "reproduce", "relu", "columns", "--records", str(records))
    assert max(map(len, (overview + text).splitlines())) <= int(columns)
    assert "paper: 6; measured: 4.35 [3.54, 5.16]; p 0.125;" in text
    assert "ablated" not in text
    # pre_trained has the largest numbers.
    for name in ("original", "cifar_11", "pre_trained"):
        text = printed(capsys, "summary", name)
        assert max(map(len, text.splitlines())) <= int(columns)
        assert len({len(line) for line in text.rstrip().splitlines()}) == 1, "a cell was wrapped"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["features", "runs/a"], "--data STR and --out PATH are missing"),
        (["look"], "STORE is missing"),
        (["features", "a", "b", "--data", "c", "--out", "d"], "there is no use for b"),
        (["evaluate", "a", "--split"], "--split needs a value"),
        (["reproduce", "lrn", "--seeds", "few"], "--seeds cannot be few; it takes a whole number"),
        (["train", "paper", "--epochs", "few"], "--epochs cannot be few; it takes a whole number"),
        (
            ["train", "paper", "--augment.crops=0"],
            "--augment.crops cannot be 0; it takes True or False",
        ),
        (["train", "paper", "--lr", "low"], "--sgd.lr cannot be low; it takes a number"),
        (
            ["train", "paper", "--augment.colour", "red"],
            "--augment.colour cannot be red; it is one of none, paper, original",
        ),
        (
            ["train", "--resume", "a", "--epochs", "few"],
            "--epochs cannot be few; it takes a whole number",
        ),
        (
            ["summary", "paper", "--width", "wide"],
            "--architecture.width cannot be wide; it takes a number",
        ),
    ],
)
@pytest.mark.parametrize("columns", ["60", "200"])
def test_values_that_do_not_fit_are_one_sentence(
    arguments: list[str],
    says: str,
    columns: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    sentence = refused(capsys, *arguments)
    assert sentence.startswith(f"alexnet: {says}; see alexnet ")
    assert sentence.endswith(" --help")


@pytest.mark.parametrize(
    "box",
    [
        "╭─ Odd thing ─╮\n│ It is       │\n│ odd.        │\n│ ─────────── │\n│ See it   │\n",
        " Odd thing       \n ----------------\n  It is\n  odd.\n  ---------------\n  See help\n",
        "\x1b[31m╭─ Odd thing ─╮\x1b[0m\n│ It is odd.  │\n╰─────────────╯\n",
    ],
)
def test_box_of_another_kind_is_said_whole(box: str) -> None:
    assert sentence(box) == "odd thing: It is odd"


# Each takes a tenth of a second or more; PyTorch more than one.
HEAVY = {"torch", "numpy", "datasets", "pyarrow", "pandas", "matplotlib", "scipy", "onnx", "rich"}


@pytest.mark.parametrize(
    "arguments",
    ["--help", "train original --help", "summary paper --help", "train", "prepare --help"],
)
def test_help_and_recipes_import_no_heavy_module(arguments: str) -> None:
    program = (
        "import sys; from alexnet.cli import main\n"
        f"try: main({arguments.split()!r})\nexcept SystemExit: pass\n"
        f"print({HEAVY!r} & set(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert completed.stderr == "set()\n"


def flags_in(text: str) -> set[str]:
    """The options that a help text lists, each at the start of a line."""
    return set(re.findall(r"^[ │]+--([a-z0-9.-]+) ", text, re.MULTILINE)) - {"help"}


@pytest.mark.parametrize("recipe", recipes.__all__)
def test_short_help_of_a_recipe_ends_with_the_way_to_the_long_one(
    recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(capsys, "train", recipe, "--help")
    assert text.splitlines()[-1].startswith("--help-all lists every field")
    assert f"runs/{recipe}" in text
    summary = printed(capsys, "summary", recipe, "--help").splitlines()
    assert len(summary) <= 30
    assert summary[-1].startswith("--help-all lists every field")


def test_short_help_has_the_settings_that_people_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys, "train", "original", "--help")
    groups = re.findall(r"^([A-Z]\w+):$", text, re.MULTILINE)
    assert groups == list(TRAIN_GROUPS)
    assert groups[:3] == ["Run", "Optimization", "Network"]
    assert "--resume RUN" in text
    expected = {"data", "out", "epochs", "seed", "device", "precision", "workers", "init"}
    expected |= {"sgd.lr", "sgd.batch", "architecture.input-px", "architecture.width"}
    assert expected <= flags_in(text)
    assert 15 <= len(flags_in(text)) <= 20
    assert "runs/original" in text
    # --lr alone leaves the learning rate of the biases as it is.
    says = "Initial learning rate (of biases: sgd.bias-lr)."
    assert f"{says} (default: 0.01)" in " ".join(text.split())
    assert f"{says} (default: 0.003)" in " ".join(
        printed(capsys, "train", "demo", "--help").split()
    )


@pytest.mark.parametrize(("verb", "groups"), [("train", TRAIN_GROUPS), ("summary", SUMMARY_GROUPS)])
def test_every_setting_of_the_short_help_exists(
    verb: str, groups: dict[str, tuple[Setting, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each setting is an option of the parser, and the parsed config has the given value."""
    by_value = {"INT": "2", "FLOAT": "0.25", "BOOL": "False", "RUN": "a", "STORE": "b"}
    by_flag = {
        "architecture.input-px": "96",
        "architecture.columns": "1",
        "architecture.activation": "tanh",
        "architecture.without": "conv2",
        "augment.colour": "none",
        "init-layers": "conv1",
        "device": "cpu",
        "precision": "tf32",
    }
    untouched = printed(capsys, "summary", "paper")
    for setting in (setting for settings in groups.values() for setting in settings):
        value = by_flag.get(setting.flag) or by_value[setting.value]
        if verb == "summary":
            text = printed(capsys, "summary", "paper", f"--{setting.flag}", value)
            assert "neurons" in text
            # The table shows no activation.
            assert text != untouched or setting.flag == "architecture.activation", setting
            continue
        a = parse_train("paper", [f"--{setting.flag}", value])
        parsed = a.out if setting.flag == "out" else default_of(a.config, setting.flag)
        assert str(parsed) == value or parsed == (value,), setting
        assert parsed != default_of(recipes.paper(), setting.flag), setting


def test_short_help_names_every_choice() -> None:
    """A choice that is added to a field must also be added to its help text."""
    for settings in TRAIN_GROUPS.values():
        for setting in settings:
            owner: Any = recipes.paper()
            *path, name = setting.flag.replace("-", "_").split(".")
            for part in path:
                owner = getattr(owner, part)
            hint = typing.get_type_hints(type(owner)).get(name)
            if typing.get_origin(hint) is typing.Literal:
                assert all(choice in setting.text for choice in typing.get_args(hint)), setting


@pytest.mark.parametrize("verb", ["train", "summary"])
def test_help_all_lists_every_field(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # a wider terminal gets several columns of boxes
    listed = flags_in(printed(capsys, verb, "original", "--help-all"))

    def fields(value: Any, path: str) -> Iterator[str]:
        for field in dataclasses.fields(value):
            child = getattr(value, field.name)
            name = f"{path}{field.name}".replace("_", "-")
            if dataclasses.is_dataclass(child):
                yield from fields(child, f"{name}.")
            else:
                yield name

    # Fields of fields in tuples of dataclasses have an option for each item.
    missing = {
        name
        for name in fields(recipes.original(), "")
        if name not in listed and not any(flag.startswith(f"{name}.") for flag in listed)
    }
    assert not missing
    assert {"out", "epochs"} <= listed or verb == "summary"
    assert len(listed) > 100


def test_help_of_a_folder_says_whose_defaults_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(printed(capsys, "train", tmp_path, "--help").split())
    assert f"images under {own_images.TINY_PX} pixels get a CIFAR-10 recipe" in text
    assert own_images.recommended(own_images.TINY_PX).recipe == "modern_small"
    assert "--recipe NAME Recipe to train; by the size of the images when not given. --" in text
    assert "--epochs INT Passes over the images, in place of --minutes. Opt" in text
    assert "Time to train on this machine. (default: 9)" in text
