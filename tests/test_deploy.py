"""Installing and deploying: the Dockerfile, the optional parts, and the completion of a shell."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    """The names of the packages, as constraints.txt compares them."""
    found = [re.match(r"[\w.-]+", requirement) for requirement in requirements]
    return {match.group().lower().replace("_", "-") for match in found if match}


def dockerfile() -> list[list[str]]:
    """The instructions of the Dockerfile, as lists of words."""
    text = re.sub(r"^#.*\n|\\\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line.split() for line in text.splitlines() if line.strip()]


def test_dockerfile_copies_files_of_the_checkout_that_docker_sees() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    copied = [source for word, *sources, _ in dockerfile() if word == "COPY" for source in sources]
    assert "alexnet" in copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in kept, f"{source} is in .dockerignore"
    # Whatever the build of the wheel names must be there.
    built = {PROJECT["readme"], "LICENSE", "pyproject.toml", "records/claims"}
    assert built <= set(copied)


def test_image_does_not_run_as_root_and_has_the_versions_of_the_constraints() -> None:
    instructions = dockerfile()
    words = [line[0] for line in instructions]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert instructions[words.index("USER")][1] not in ("root", "0")
    installs = [" ".join(line) for line in instructions if "pip" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)


def test_every_dependency_of_the_tests_and_of_the_image_is_pinned() -> None:
    pinned = names((ROOT / "constraints.txt").read_text().splitlines())
    extras = PROJECT["optional-dependencies"]
    needed = PROJECT["dependencies"] + [
        requirement for extra in ("dev", "export", "s3", "serve") for requirement in extras[extra]
    ]
    assert names(needed) - {"alexnet"} <= pinned


def test_no_page_and_no_message_installs_the_package_from_an_index() -> None:
    """`alexnet` is on no index: the commands are those of a checkout, or name other packages."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in [*pages, *(ROOT / "alexnet").rglob("*.py"), *(ROOT / "examples").glob("*.py")]:
        for command in re.findall(r"pip install [^`\n]*", page.read_text()):
            assert not re.search(r"(?<![./\w])alexnet\b", command), f"{page.name}: {command}"
