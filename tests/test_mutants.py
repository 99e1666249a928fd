"""The ledger and the table of mutants agree; `make mutants` checks that the tests fail."""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests import mutants
from tests.mutants import Mutant


def test_every_row_of_the_ledger_has_a_mutant_and_every_mutant_a_row() -> None:
    rows = {mutants.row_of(mutant) for mutant in mutants.mutants()}
    assert rows == set(mutants.rows())
    assert len(rows) > 50


def test_every_row_names_tests_that_exist() -> None:
    for row in mutants.rows():
        assert mutants.node_ids(row.tests)


def defined_names(paths: Iterable[Path]) -> set[str]:
    """The functions, classes, fields and constants that the files define."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return names


def test_every_row_names_code_that_exists() -> None:
    modules = list((mutants.ROOT / "alexnet").rglob("*.py"))
    names = defined_names(modules) | {path.stem for path in modules}
    for row in mutants.rows():
        assert row.code, row
        for word in row.code:
            assert re.split(r"[(=\[]", word.split(".")[-1])[0] in names, (word, row)


def test_every_mutant_changes_one_place_of_the_code() -> None:
    for mutant in mutants.mutants():
        text = (mutants.ROOT / "alexnet" / mutant.file).read_text()
        assert text.count(mutant.old) == 1, mutant
        assert mutant.old != mutant.new


def undefined_names(text: str) -> set[str]:
    """The names of a module that nothing in it defines, nor Python itself."""

    def walk(table: symtable.SymbolTable) -> Iterator[symtable.Symbol]:
        yield from table.get_symbols()
        for child in table.get_children():
            yield from walk(child)

    module = symtable.symtable(text, "module", "exec")
    defined = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned()}
    defined |= {symbol.get_name() for symbol in module.get_symbols() if symbol.is_imported()}
    used = {symbol.get_name() for symbol in walk(module) if symbol.is_global()}
    used |= {symbol.get_name() for symbol in module.get_symbols() if symbol.is_referenced()}
    return used - defined - set(dir(builtins)) - {"__file__", "__name__"}


def test_no_mutant_fails_for_a_name_that_it_has_taken_away() -> None:
    """It would be killed by any test at all, and prove nothing."""
    for mutant in mutants.mutants():
        if mutant.file.endswith(".py"):
            text = (mutants.ROOT / "alexnet" / mutant.file).read_text()
            assert not undefined_names(text.replace(mutant.old, mutant.new)), mutant


def test_mutant_that_does_not_match_exactly_once_is_refused(tmp_path: Path) -> None:
    (tmp_path / "alexnet").mkdir()
    (tmp_path / "alexnet" / "x.py").write_text("a = 1\na = 1\n")
    for old in ("a = 1", "b"):
        with pytest.raises(ValueError, match=r"x\.py has .* times, not once"):
            mutants.apply(Mutant("", "x.py", old, "a = 2"), tmp_path)


def test_name_that_two_files_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    for file in ("test_a.py", "test_b.py"):
        (tmp_path / "tests" / file).write_text("def test_same() -> None: ...\n")
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    says = r"tests/test_a\.py and tests/test_b\.py both have a test named test_same"
    with pytest.raises(ValueError, match=says):
        mutants.node_ids([])


@pytest.mark.parametrize("words", [(), ("LRN",)])
def test_no_mutant_is_examined_where_the_tests_fail_without_a_change(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examined: list[tuple[Mutant | None, tuple[str, ...]]] = []

    def verdict(mutant: Mutant | None, names: Iterable[str]) -> tuple[Mutant | None, str, float]:
        examined.append((mutant, tuple(names)))
        return mutant, "killed\n1 failed", 1.0

    monkeypatch.setattr(mutants, "verdict", verdict)
    assert mutants.main(words) == 1
    ((mutant, names),) = examined
    assert mutant is None
    chosen = [each for each in mutants.mutants() if not words or "lrn" in str(each).lower()]
    assert set(names) == {name for each in chosen for name in mutants.row_of(each).tests}
    assert capsys.readouterr().out == "the tests without a change: killed\n1 failed (1 s)\n"


def test_row_with_an_unknown_test_is_refused() -> None:
    with pytest.raises(ValueError, match="no test is named test_nothing_of_this_kind"):
        mutants.node_ids(["test_nothing_of_this_kind[paper]"])
