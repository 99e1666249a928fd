"""The ledger and the table of mutants agree; `make mutants` checks that the tests fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import mutants
from tests.mutants import Mutant, Row


def test_every_row_of_the_ledger_has_a_mutant_and_every_mutant_a_row() -> None:
    rows = {mutants.row_of(mutant) for mutant in mutants.mutants()}
    assert rows == set(mutants.rows())
    assert len(rows) > 50


def test_every_row_names_tests_that_exist() -> None:
    for row in mutants.rows():
        assert mutants.node_ids(row.tests)


def test_every_mutant_changes_one_place_of_the_code() -> None:
    for mutant in mutants.mutants():
        text = (mutants.ROOT / "alexnet" / mutant.file).read_text()
        assert text.count(mutant.old) == 1, mutant
        assert mutant.old != mutant.new


def test_mutant_that_does_not_match_exactly_once_is_refused(tmp_path: Path) -> None:
    (tmp_path / "alexnet").mkdir()
    (tmp_path / "alexnet" / "x.py").write_text("a = 1\na = 1\n")
    for old in ("a = 1", "b"):
        with pytest.raises(ValueError, match=r"x\.py has .* times, not once"):
            mutants.apply(Mutant("", "x.py", old, "a = 2"), tmp_path)


def test_row_with_an_unknown_test_is_refused() -> None:
    with pytest.raises(ValueError, match="no test is named test_nothing_of_this_kind"):
        mutants.node_ids(Row("a sentence", ("test_nothing_of_this_kind[paper]",)).tests)
