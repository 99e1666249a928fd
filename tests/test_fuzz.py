"""The hostile campaign finds faults where there are some, and a short one finds none here."""

from __future__ import annotations

import json
import os
import random
import time
from functools import partial
from pathlib import Path

import pytest

from alexnet.errors import DataError
from tests.fuzz import kills
from tests.fuzz.campaign import FAULTS, OUTCOMES, run
from tests.fuzz.mutations import HOSTILE_VALUES, NESTED, damage_bytes, damage_json
from tests.fuzz.readers import READERS, Content, Reader, in_bytes


def test_damage_is_a_function_of_the_seed_and_changes_something() -> None:
    data = bytes(range(256)) * 20
    for seed in range(200):
        damaged = damage_bytes(data, random.Random(seed))
        assert damaged != data
        assert damaged == damage_bytes(data, random.Random(seed))
    text = json.dumps({"a": [1, {"b": "c"}], "d": None})
    results = {damage_json(text, random.Random(seed)) for seed in range(300)}
    assert len(results) > 100
    assert any(NESTED in result for result in results)
    assert len(HOSTILE_VALUES) > 20


def write_ten(folder: Path) -> None:
    (folder / "file").write_bytes(bytes(range(10)))


def misread(folder: Path) -> Content:
    """A reader with every kind of fault, chosen by the damaged bytes."""
    data = (folder / "file").read_bytes()
    if len(data) < 10:
        raise DataError("a sentence without the name")
    if len(data) > 10:
        raise DataError(f"{folder / 'file'} is too long; shorten it")
    if data[0] != 0:
        raise KeyError("a bug")
    if data[1] != 1:
        os._exit(3)  # as a segmentation fault would
    return Content(data.hex(), 1)


def reader(**changes: object) -> Reader:
    fields: dict[str, object] = {
        "name": "a reader with faults",
        "make": write_ten,
        "read": misread,
        "damaged": ("file",),
        "damage": in_bytes,
        "has_checksum": True,
        "share": 1,
    }
    return Reader(**fields | changes)  # type: ignore[arg-type]


def test_every_kind_of_fault_is_counted(tmp_path: Path) -> None:
    (tmp_path / "pristine").mkdir()
    write_ten(tmp_path / "pristine")
    outcomes = run(reader(), 0, 120, tmp_path, processes=2).outcomes
    assert outcomes.total() == 120
    for outcome in ("clear", "unclear", "silent", "traceback", "crash"):
        assert outcomes[outcome] > 0, outcome
    without_checksum = run(reader(has_checksum=False), 0, 120, tmp_path, processes=2).outcomes
    assert without_checksum["silent"] == 0
    assert without_checksum["accepted"] == outcomes["silent"]


def test_a_reader_without_an_end_is_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(folder: Path) -> Content:
        if (folder / "file").read_bytes() != bytes(range(10)):
            time.sleep(60)
        return Content("", 1)

    monkeypatch.setattr("tests.fuzz.campaign.LIMIT_S", 1)
    (tmp_path / "pristine").mkdir()
    write_ten(tmp_path / "pristine")
    assert run(reader(read=hang), 0, 1, tmp_path, processes=1).outcomes == {"hang": 1}

    def hang_once(folder: Path) -> Content:
        """As on a machine that others use, too."""
        if not (tmp_path / "once").exists() and (folder / "file").read_bytes() != bytes(range(10)):
            (tmp_path / "once").touch()
            hang(folder)
        return misread(folder)

    assert run(reader(read=hang_once), 0, 1, tmp_path, processes=1).outcomes["hang"] == 0
    assert (tmp_path / "once").exists()


def spoiled(folder: Path) -> None:
    """Work whose result depends on whether it was killed."""
    time.sleep(0.05)
    with (folder / "log").open("a") as log:
        log.write("x")
    time.sleep(0.05)


@pytest.mark.slow
def test_a_kill_that_changes_the_result_is_noticed(tmp_path: Path) -> None:
    line = kills.one_kind("spoiled", spoiled, kills.nothing, 12, random.Random(0), tmp_path)
    assert "not identical: log" in line
    harmless = partial(lambda folder: (folder / "log").write_text("x"))
    line = kills.one_kind("harmless", harmless, kills.nothing, 3, random.Random(0), tmp_path)
    assert line.endswith("identical")
    assert "not" not in line


def in_two_files(folder: Path) -> None:
    """Work that takes a file of an earlier process for its own, complete one."""
    if not (folder / "a").exists():
        (folder / "a").write_text("x")
        (folder / "b").write_text("x")


def test_a_kill_between_two_files_is_noticed(tmp_path: Path) -> None:
    line = kills.each_operation("careless", in_two_files, kills.nothing, tmp_path)
    assert line == "careless: killed before each of 2 file operations, not identical: b"


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_short_campaign_finds_no_fault(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "pristine").mkdir()
    reader.make(tmp_path / "pristine")
    tally = run(reader, 1, 60, tmp_path, processes=2)
    assert tally.outcomes.total() == 60
    assert set(tally.outcomes) <= set(OUTCOMES)
    assert not any(tally.outcomes[fault] for fault in FAULTS), tally.examples


@pytest.mark.slow
def test_short_campaign_of_kills_changes_nothing(tmp_path: Path) -> None:
    lines = kills.campaign(30, 1, tmp_path)
    assert len(lines) == 4
    for line in lines:
        assert line.endswith("identical"), line
        assert "not" not in line
