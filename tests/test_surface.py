"""What the package is: its public names, which way imports point, what it keeps out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import alexnet

PACKAGE = Path(alexnet.__file__).parent

# A module may import from modules of its own rank or a lower one.
RANKS = {
    0: ["config", "errors", "files", "native", "progress", "provenance", "saved_config"],
    1: ["recipes", "ops", "data", "device"],
    2: ["model"],
    3: ["distributed", "diagnostics", "checkpoint"],
    4: ["evaluation", "inference", "export"],
    5: ["train"],
    6: ["figures"],
    7: ["demo", "experiments"],
    8: ["cli", "__init__", "__main__"],
}
RANK = {name: rank for rank, names in RANKS.items() for name in names}


def imports(path: Path) -> set[str]:
    """Rooms of the package that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "alexnet"
        ):
            rest = node.module.split(".")[1:]
            found |= (
                {rest[0]}
                if rest
                else {alias.name for alias in node.names if (PACKAGE / f"{alias.name}.py").exists()}
            )
    return found


def test_imports_point_one_way() -> None:
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for other in imports(path):
            assert RANK[other] <= RANK[room], f"{path.name} imports {other}"
            if room == "data":
                known = "config", "data", "errors", "files", "native", "ops", "progress"
                assert other in known, (
                    f"data knows only config, the operators and what compiles them: {path.name} {other}"
                )


def test_the_public_names_are_all_there_and_no_others() -> None:
    assert sorted(alexnet.__all__) == alexnet.__all__
    for name in alexnet.__all__:
        assert getattr(alexnet, name) is not None
    assert set(dir(alexnet)) == {*alexnet.__all__, "__version__"}


def test_public_names_are_documented() -> None:
    for name in alexnet.__all__:
        assert getattr(alexnet, name).__doc__, name
    for name in alexnet.recipes.__all__:
        assert getattr(alexnet.recipes, name).__doc__, name
        assert getattr(alexnet.recipes, name)().recipe == name


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import sys, alexnet; assert not {'torch', 'numpy', 'datasets', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_training_needs_no_datasets_library() -> None:
    program = "import sys, alexnet.train.loop; assert not {'datasets', 'matplotlib', 'scipy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_version_is_the_changelogs() -> None:
    root = PACKAGE.parent
    assert f'version = "{alexnet.__version__}"' in (root / "pyproject.toml").read_text()
    assert f"## [{alexnet.__version__}] - 20" in (root / "CHANGELOG.md").read_text()


def test_every_sentence_of_the_ledger_names_things_that_exist() -> None:
    """docs/paper.md: each row's symbol and test are in the tree."""
    root = PACKAGE.parent
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    tests = "\n".join(path.read_text() for path in (root / "tests").glob("*.py"))
    rows = [
        line.split("|")
        for line in (root / "docs" / "paper.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    checked = 0
    for row in rows:
        for cell, text in ((row[2], code), (row[3], tests)) if len(row) > 4 else ():
            for word in cell.split("`")[1::2]:
                assert re.split(r"[(=\[]", word.split(".")[-1])[0] in text, (
                    f"{word} of {row[1].strip()!r}"
                )
                checked += 1
    assert checked > 50
