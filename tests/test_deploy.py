"""Installing and deploying: the Dockerfile, the optional parts, and the completion of a shell."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet import load, predict, recipes
from alexnet.cli import VERBS, main
from alexnet.cli.short_help import TRAIN_GROUPS, default_of
from alexnet.data import shapes
from tests.commands import refused
from tests.test_documentation import python_blocks

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
        parts = Path(source).parts
        folders = {"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
        assert folders & set(kept), f"{source} is in .dockerignore"
    # Whatever the build of the wheel names must be there.
    built = {PROJECT["readme"], "LICENSE", "pyproject.toml", "records/claims"}
    assert built <= set(copied)


def test_windows_is_refused_in_a_sentence() -> None:
    code = "import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; import alexnet.cli"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1
    assert ended.stderr.startswith("alexnet: Windows lacks what this program needs; run it in WSL")
    assert ended.stderr.count("\n") == 1


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


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script of `alexnet --completion bash`."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    path = tmp_path_factory.mktemp("completion") / "alexnet.bash"
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        main(["--completion", "bash"])
    path.write_text(output.getvalue())
    return path


def completions(script: Path, *words: str) -> set[str]:
    """What bash offers for the last of these words."""
    line = " ".join(map(shlex.quote, words))
    program = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _alexnet; "
        "printf '%s\\n' \"${COMPREPLY[@]}\"; complete -p alexnet"
    )
    completed = subprocess.run(["bash", "-uc", program], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    *offered, registered = completed.stdout.splitlines()
    # Files follow from `default` where nothing is offered.
    assert registered == "complete -o bashdefault -o default -F _alexnet alexnet"
    return {word for word in offered if word}


def test_bash_completes_verbs_recipes_and_options(bash: Path) -> None:
    assert completions(bash, "alexnet", "pre") == {"prepare", "predict"}
    assert completions(bash, "alexnet", "") >= {*VERBS, "--completion"}
    assert completions(bash, "alexnet", "train", "original_") == {
        name for name in recipes.__all__ if name.startswith("original_")
    }
    assert completions(bash, "alexnet", "train", "demo", "--sgd.l") == {"--sgd.lr"}
    assert completions(bash, "alexnet", "train", "--resu") == {"--resume"}
    assert completions(bash, "alexnet", "export", "run", "net.onnx", "--with") == {
        "--with-preprocessing"
    }
    assert completions(bash, "alexnet", "summary", "demo", "--form") == {"--format"}
    assert completions(bash, "alexnet", "--completion", "") == {"bash", "zsh"}
    # An argument that is not an option is a file, which bash completes itself.
    assert completions(bash, "alexnet", "predict", "runs/") == set()


def test_every_option_of_the_script_is_one_of_its_verb(bash: Path) -> None:
    offered = completions(bash, "alexnet", "train", "demo", "--")
    assert {f"--{setting.flag}" for group in TRAIN_GROUPS.values() for setting in group} <= offered
    of_the_verb = {"--help", "--help-all", "--resume", "--out", "--epochs"}
    of_resuming = {"--columns", "--hybrid", "--lr", "--timeout-s"}
    for option in offered - of_the_verb - of_resuming:
        default_of(recipes.demo(), option.removeprefix("--"))


def test_completion_without_a_shell_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["fish"], ["bash", "zsh"]):
        expected = "alexnet: name the shell: alexnet --completion bash|zsh"
        assert refused(capsys, "--completion", *arguments) == expected


def test_the_python_of_deploy_md_runs_and_gives_what_the_trained_network_gives(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["export", str(run), "mine.onnx", "--with-preprocessing", "--crops", "ten"])
    # So large that a JPEG is decoded at half of its size.
    rgb = np.asarray(Image.fromarray(shapes.image(0, 1)).resize((900, 700)))
    Image.fromarray(rgb).save("IMAGE.jpg")
    trained = load(run)
    (prediction,) = predict(trained, [Path("IMAGE.jpg")], most=len(trained.classes))
    shares = dict(prediction.classes)
    want = np.array([[shares[name] for name in trained.names]])
    used, _, without_run = python_blocks("docs/deploy.md")
    np.testing.assert_allclose(used["probabilities"], want, atol=1e-5)
    draft_px = json.loads(used["about"]["input"])["before"]["jpeg_draft_px"]
    assert draft_px == 2 * trained.preprocess.stored_px
    assert used["best"][0][1] == shapes.CLASSES[int(want.argmax())]
    assert Path("mine-int8.onnx").stat().st_size < Path("mine.onnx").stat().st_size

    # Vectors and a file of the paper's network without a training, here of an eighth of its width.
    paper = recipes.paper()
    narrow = replace(paper, architecture=replace(paper.architecture, width=0.125, classes=10))
    monkeypatch.setattr(recipes, "paper", lambda: narrow)
    without_run["untrained"].__defaults__ = (10,)
    without_run["paper_vectors"]("IMAGE.jpg", "OUT", "paper.onnx")
    assert json.loads(Path("OUT/golden.json").read_text())["run"]["recipe"] == "paper"
    assert Path("OUT/npy/conv2.weight.npy").is_file()
    assert Path("paper.onnx").is_file()
