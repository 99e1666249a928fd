"""The package as a whole: public names, direction of imports, and what is not imported."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet

PACKAGE = Path(alexnet.__file__).parent

# A module may import from modules of its own rank or a lower one.
RANKS = {
    0: [
        "config",
        "config_checks",
        "cores",
        "errors",
        "files",
        "native",
        "progress",
        "program",
        "provenance",
        "requirements",
        "saved_config",
        "terminal",
    ],
    1: ["ladder", "recipes", "architecture", "receptive_field", "layer_tables"],
    2: ["ops", "data", "device", "waiting"],
    3: ["layers"],
    4: ["model"],
    5: ["distributed", "diagnostics", "checkpoint", "snapshots", "trained"],
    6: [
        "evaluation",
        "inference",
        "export",
        "golden",
        "attribution",
        "explain",
        "units",
        "weights",
        "card",
    ],
    7: ["train", "environment"],
    8: ["figures", "look", "run_report", "web_page", "explorer"],
    9: ["demo", "experiments", "own_images"],
    10: ["cli", "__init__", "__main__"],
}
RANK = {name: rank for rank, names in RANKS.items() for name in names}


def imports(path: Path) -> set[str]:
    """The modules and subpackages of the package that a file imports from."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "alexnet"
        ):
            parts = node.module.split(".")[1:]
            names |= (
                {parts[0]} if parts else {alias.name for alias in node.names if alias.name in RANK}
            )
        if isinstance(node, ast.Import):
            names |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("alexnet.")
            }
    return names


def test_imports_point_in_one_direction() -> None:
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for imported in imports(path):
            assert RANK[imported] <= RANK[module], f"{path.name} imports {imported}"
            if module == "data":
                allowed = (
                    "config",
                    "cores",
                    "data",
                    "errors",
                    "files",
                    "native",
                    "ops",
                    "progress",
                    "program",
                    "terminal",
                )
                assert imported in allowed, (
                    f"{path.name} imports {imported}; data may import only {allowed}"
                )


def test_data_uses_the_blocks_and_the_crops_of_the_operators_alone() -> None:
    used = set()
    for path in (PACKAGE / "data").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alexnet.ops"):
                names = (f"{node.module}.{alias.name}" for alias in node.names)
                used |= {name.split(".")[2] for name in names}
    assert used == {"blocks", "triton_crop"}


def test_every_module_at_the_top_is_on_the_map() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    the_map = text.split("```")[1]
    missing = [
        path.name
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").is_file())
        and not path.name.startswith("__")
        and not re.search(rf"(?<!\w){re.escape(path.name)}", the_map)
    ]
    assert missing == []


def test_package_exports_exactly_the_public_names() -> None:
    assert sorted(alexnet.__all__) == alexnet.__all__
    for name in alexnet.__all__:
        assert getattr(alexnet, name) is not None
    assert set(dir(alexnet)) == {*alexnet.__all__, "__version__"}


def test_modules_are_imported_when_they_are_first_used(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = ("attribution", "explain", "inference", "ops", "receptive_field", "recipes", "units")
    for name in modules:
        # As before anything has imported it.
        monkeypatch.delitem(vars(alexnet), name, raising=False)
        assert getattr(alexnet, name) is sys.modules[f"alexnet.{name}"]
    for name, home in alexnet._HOME.items():
        assert getattr(alexnet, name) is getattr(sys.modules[home], name)
    for name in ("unit", "_units", "laod", "unit.s"):
        with pytest.raises(AttributeError, match=f"'alexnet' has no attribute '{name}'"):
            getattr(alexnet, name)


def test_type_checkers_see_only_names_that_exist() -> None:
    """To them a module with a function `__getattr__` has every name."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    assert "__getattr__" not in [getattr(node, "name", "") for node in tree.body]


def test_public_names_are_documented() -> None:
    for name in alexnet.__all__:
        assert getattr(alexnet, name).__doc__, name
    for name in alexnet.recipes.__all__:
        assert getattr(alexnet.recipes, name).__doc__, name
        assert getattr(alexnet.recipes, name)().recipe == name


def test_import_alexnet_does_not_import_large_libraries() -> None:
    large = {"torch", "numpy", "datasets", "matplotlib"}
    program = f"import sys, alexnet; assert not {large} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_training_does_not_import_what_it_does_not_use() -> None:
    """PyTorch's compiler, for example: its import takes as long as a prediction."""
    unused = {"datasets", "matplotlib", "scipy", "torch._dynamo"}
    step = "Network(tiny_architecture(), 0)(torch.zeros(2, 3, 32, 32)).sum().backward()"
    program = (
        "import sys, torch, alexnet.train.start; from alexnet.model import Network; "
        f"from tests.conftest import tiny_architecture; {step}; "
        f"print(sorted({unused} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr


def test_version_matches_the_changelog() -> None:
    root = PACKAGE.parent
    assert f'version = "{alexnet.__version__}"' in (root / "pyproject.toml").read_text()
    assert f"## [{alexnet.__version__}] - 20" in (root / "CHANGELOG.md").read_text()
