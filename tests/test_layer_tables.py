"""The layer tables for other programs, and the page that counts the paper's network."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from alexnet import recipes
from alexnet.architecture import plan
from alexnet.cli import main
from alexnet.layer_tables import dense_architecture
from tests.commands import printed, refused

CONVOLUTIONS = {
    "conv1": 105_415_200,
    "conv2": 223_948_800,
    "conv3": 149_520_384,
    "conv4": 112_140_288,
    "conv5": 74_760_192,
}
"""Multiply-adds of each convolution of the paper with its two columns."""
CONVOLUTIONS_DENSE = {
    "conv1": 105_415_200,
    "conv2": 447_897_600,
    "conv3": 149_520_384,
    "conv4": 224_280_576,
    "conv5": 149_520_384,
}
FULLY_CONNECTED = {"fc6": 37_748_736, "fc7": 16_777_216, "fc8": 4_096_000}

Counts = dict[str, int]


def page() -> str:
    """The page that counts the parameters of the paper's network."""
    return (Path(__file__).parents[1] / "docs" / "where-60-million.md").read_text()


def added(names_and_counts: list[tuple[str, int]]) -> Counts:
    """Multiply-adds by layer; the columns of a layer are added."""
    counts: Counts = {}
    for name, count in names_and_counts:
        name = re.sub(r"_column\d$", "", name)
        counts[name] = counts.get(name, 0) + count
    return counts


def json_counts(text: str) -> Counts:
    table = json.loads(text)
    layers = [layer for layer in table["layers"] if layer["operation"] == "linear"]
    assert table["all"]["multiply_adds"] == sum(layer["multiply_adds"] for layer in layers)
    return added([(layer["name"].split(".")[0], layer["multiply_adds"]) for layer in layers])


def csv_counts(text: str) -> Counts:
    rows = [row for row in csv.DictReader(text.splitlines()) if row["operation"] == "linear"]
    return added([(row["name"].split(".")[0], int(row["multiply_adds"])) for row in rows])


def timeloop_counts(text: str) -> Counts:
    """Timeloop's operation space: the product of the instance's sizes of all its dimensions."""
    names = re.findall(r"^---\n# (\w+)$", text, re.MULTILINE)
    problems = [document["problem"] for document in yaml.safe_load_all(text) if document]
    for problem in problems:
        shape, instance = problem["shape"], problem["instance"]
        used = {name for name in instance if not name.endswith(("stride", "dilation"))}
        assert used == set(shape["dimensions"])
        for space in shape["data_spaces"]:
            for rank in space["projection"]:
                assert all(term[0] in shape["dimensions"] for term in rank)
    return added(
        [
            (name, math.prod(p["instance"][d] for d in p["shape"]["dimensions"]))
            for name, p in zip(names, problems, strict=True)
        ]
    )


def scalesim_counts(text: str) -> Counts:
    """SCALE-Sim's own reading: fields before the last comma, and outputs rounded up."""
    counts = []
    for line in text.splitlines()[1:]:
        name, *fields = line.split(",")[:-1]
        height, width, size, size_across, maps, kernels, stride = map(int, fields)
        assert size <= height
        out = math.ceil((height - size + stride) / stride)
        out_across = math.ceil((width - size_across + stride) / stride)
        counts.append((name, out * out_across * size * size_across * maps * kernels))
    return added(counts)


def maestro_counts(text: str) -> Counts:
    code = "\n".join(line for line in text.splitlines() if not line.startswith("//"))
    counts = []
    for name, stride, sizes in re.findall(
        r"^Layer (\w+) \{\nType: CONV\nStride \{ X: (\d+), Y: \2 \}\nDimensions \{ (.*) \}\n\}$",
        code,
        re.MULTILINE,
    ):
        d = {key: int(value) for key, value in re.findall(r"(\w): (\d+)", sizes)}
        out = (d["Y"] - d["R"]) // int(stride) + 1
        counts.append((name, d["N"] * d["K"] * d["C"] * d["R"] * d["S"] * out * out))
    assert code.count("Layer ") == len(counts)
    return added(counts)


def zigzag_counts(text: str) -> Counts:
    """The product of a layer's loops; the patterns are those of ZigZag's `WorkloadValidator`."""
    layers = yaml.safe_load(text)
    counts = []
    for number, layer in enumerate(layers):
        assert layer["id"] == number
        assert re.match(r"^O(\[\w+\])+\+?=\w(\[\w+\])+[*+]\w(\[(?:\w+)?\])+$", layer["equation"])
        for relation in layer["dimension_relations"]:
            assert re.match(r"^(\w+)=(\w+)\*(\w+)\+(\w+)\*(\w+)$", relation)
        assert layer["operand_source"] == {"W": number, "I": max(0, number - 1)}
        sizes = dict(zip(layer["loop_dims"], layer["loop_sizes"], strict=True))
        stride = int(layer["dimension_relations"][0][3])
        (before, after), _ = layer["padding"]
        reach = (sizes["OX"] - 1) * stride + sizes["FX"]
        assert reach <= before + layer["pr_loop_sizes"][0] + after
        counts.append((layer["name"], math.prod(layer["loop_sizes"])))
    return added(counts)


READERS: dict[str, Callable[[str], Counts]] = {
    "json": json_counts,
    "csv": csv_counts,
    "timeloop": timeloop_counts,
    "scalesim": scalesim_counts,
    "maestro": maestro_counts,
    "zigzag": zigzag_counts,
}


@pytest.mark.parametrize("format", READERS)
def test_every_format_has_the_papers_multiply_adds(
    format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    read = READERS[format]
    text = printed(capsys, "summary", "paper", "--format", format)
    assert read(text) == CONVOLUTIONS | FULLY_CONNECTED
    # A field of the recipe may stand before or behind the options of the verb.
    wide = printed(capsys, "summary", "paper", "--input-px=224", f"--format={format}", "--dense")
    assert read(wide) == CONVOLUTIONS_DENSE | FULLY_CONNECTED
    assert sum(CONVOLUTIONS.values()) == 665_784_864
    assert sum(CONVOLUTIONS_DENSE.values()) == 1_076_634_144


def test_tables_have_the_sizes_of_filters_and_pools_and_the_constants_of_normalizations(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys, "summary", "paper", "--format", "csv")
    rows = {row["name"]: row for row in csv.DictReader(text.splitlines())}
    columns = ("size", "stride", "pad_before", "pad_after")
    for name, values in (
        ("conv1.linear", ["11", "4", "0", "3"]),
        ("conv2.linear", ["5", "1", "2", "2"]),
        ("conv1.max_pool", ["3", "2", "0", "0"]),
        ("conv1.lrn", [""] * 4),
        ("fc6.linear", [""] * 4),
    ):
        assert [rows[name][column] for column in columns] == values, name
    text = printed(capsys, "summary", "cifar_11", "--format", "csv")
    local = {row["name"]: row for row in csv.DictReader(text.splitlines())}["local3.linear"]
    assert [local[column] for column in columns] == ["3", "1", "1", "1"]
    layers = json.loads(printed(capsys, "summary", "paper", "--format", "json"))["layers"]
    by_name = {layer["name"]: layer for layer in layers}
    lrn = by_name["conv1.lrn"]
    assert [lrn[constant] for constant in ("n", "k", "alpha", "beta")] == [5, 2.0, 1e-4, 0.75]
    assert by_name["conv1.max_pool"].items() >= {"size": 3, "stride": 2, "partial": False}.items()
    assert by_name["conv1"]["function"] == "relu"


def test_page_has_the_counts_of_the_published_files_of_the_simulators() -> None:
    """The sizes are those of the files that the simulators' repositories carry, November 2026."""
    rows = [[cell.strip() for cell in line.split("|")] for line in page().splitlines()]
    counts = {row[1].split(",")[0]: row[2] for row in rows if len(row) == 5}
    # NVlabs/timeloop, scripts/cnn_layers.py: (W, H, C, N, K, S, R, Wpad, Hpad, Wstride, Hstride).
    # conv2, conv4 and conv5 see all maps: it is our table without columns.
    timeloop = (
        (227, 3, 96, 11, 0, 4),
        (27, 96, 256, 5, 2, 1),
        (13, 256, 384, 3, 1, 1),
        (13, 384, 384, 3, 1, 1),
        (13, 384, 256, 3, 1, 1),
    )
    dense_sum = sum(
        ((side + 2 * pad - size) // stride + 1) ** 2 * size**2 * maps * kernels
        for side, maps, kernels, size, pad, stride in timeloop
    )
    assert dense_sum == sum(CONVOLUTIONS_DENSE.values())
    assert counts["Timeloop"] == f"{dense_sum:,}"
    # scalesim-project/scale-sim-v2, topologies/conv_nets/alexnet.csv: no groups and no padding, so
    # that conv2 gives 23x23 and conv3 to conv5 11x11.
    lines = ["", "Conv1,224,224,11,11,3,96,4,", "Conv2,27,27,5,5,96,256,1,"]
    lines += ["Conv3,13,13,3,3,256,384,1,", "Conv4,13,13,3,3,384,384,1,"]
    lines += ["Conv5,13,13,3,3,384,256,1,"]
    assert counts["SCALE-Sim"] == f"{sum(scalesim_counts(chr(10).join(lines)).values()):,}"
    # maestro-project/maestro, validation/eyeriss/alexnet_rs_validation.m: (K, C, R, Y, stride) with
    # N = 4. All kernels at half the maps: the work of the groups, and our numbers.
    maestro = (
        (96, 3, 11, 227, 4),
        (256, 48, 5, 31, 1),
        (384, 256, 3, 15, 1),
        (384, 192, 3, 15, 1),
        (256, 192, 3, 15, 1),
    )
    products = [k * c * r * r * ((y - r) // s + 1) ** 2 for k, c, r, y, s in maestro]
    assert products == list(CONVOLUTIONS.values())
    assert counts["MAESTRO"] == f"{sum(products):,} for each of its 4 images"
    # KULeuven-MICAS/zigzag, zigzag/inputs/workload/alexnet.onnx: (kernels, maps of a group, size,
    # output). Its groups are the paper's; conv1 sees 224 pixels without padding.
    zigzag = ((96, 3, 11, 54), (256, 48, 5, 26), (384, 256, 3, 12), (384, 192, 3, 12))
    zigzag += ((256, 192, 3, 12),)
    assert (224 - 11) // 4 + 1 == 54
    assert counts["ZigZag"] == f"{sum(k * c * s * s * o * o for k, c, s, o in zigzag):,}"
    # stanford-mast/nn_dataflow, nn_dataflow/nns/alex_net.py: (maps, kernels, output, size) of each
    # of two columns. Right, too.
    columns = ((3, 48, 55, 11), (48, 128, 27, 5), (256, 192, 13, 3), (192, 192, 13, 3))
    columns += ((192, 128, 13, 3),)
    assert [2 * c * k * o * o * s * s for c, k, o, s in columns] == list(CONVOLUTIONS.values())
    ours = f"{sum(CONVOLUTIONS.values()):,}"
    assert counts["nn_dataflow"] == counts["here"] == ours


def test_scalesim_says_beside_the_file_what_the_file_cannot(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["summary", "paper", "--format", "scalesim"])
    output = capsys.readouterr()
    assert "conv2_column2, 31, 31, 5, 5, 48, 128, 1," in output.out.splitlines()
    assert "neither groups nor comments" in output.err


def test_table_without_columns_is_the_count_of_the_web(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert "62,378,344" in printed(capsys, "summary", "paper", "--dense")
    assert "60,965,224" in printed(capsys, "summary", "paper", "--no-dense")


def test_locally_connected_layer_and_unknown_format_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, message in (
        (["cifar_11", "--format", "maestro"], "local3 is locally connected, which maestro has no"),
        (["paper", "--format", "vhdl"], "--format cannot be vhdl; it is one of table, json,"),
    ):
        assert message in refused(capsys, "summary", *arguments)
    assert "local3" in printed(capsys, "summary", "cifar_11", "--format", "json")


def test_page_about_60_million_has_the_numbers_of_the_plan() -> None:
    architecture = recipes.paper().architecture
    with_columns, without = (
        [op for op in plan(each) if op.op == "linear"]
        for each in (architecture, dense_architecture(architecture))
    )
    rows = {}
    for line in page().splitlines():
        cells = [cell.strip(" *") for cell in line.strip().strip("|").split("|")]
        if len(cells) == 7:
            rows[cells[0]] = cells[2:]
    for op, other in zip(with_columns, without, strict=True):
        counts = (
            op.parameters,
            other.parameters,
            op.neurons,
            op.multiply_adds,
            other.multiply_adds,
        )
        assert rows[op.layer.name] == [f"{count:,}" for count in counts]
    sums = [
        f"{sum(getattr(op, count) for op in ops):,}"
        for ops, count in (
            (with_columns, "parameters"),
            (without, "parameters"),
            (with_columns, "neurons"),
            (with_columns, "multiply_adds"),
            (without, "multiply_adds"),
        )
    ]
    assert rows["all"] == sums
    assert rows["all"][:2] == ["60,965,224", "62,378,344"]
    weights = sum(math.prod(op.weight_shape) for op in with_columns)
    of_connected = sum(op.parameters for op in with_columns[5:])
    share = f"{of_connected / sum(op.parameters for op in with_columns):.1%}"
    work = sum(op.multiply_adds for op in with_columns[:5])
    quoted = (f"{weights:,}", f"{of_connected:,}", share, f"{work:,}", f"{150_528 + 659_272:,}")
    for number in quoted:
        assert number.replace("%", " %") in page(), number
