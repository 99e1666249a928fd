"""`python -m benchmarks`: candidates take turns, and one that cannot run is reported."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from alexnet.config import StoreSettings
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.provenance import code_version, describe
from benchmarks import ours, plain, same_training, scale, suites
from benchmarks.__main__ import main
from benchmarks.gpu.lab import Lab, images_for, training_config
from benchmarks.interleave import Candidate, Result, environment, interleave
from benchmarks.worker import RUNS_ON_GPU
from tests.small_stores import class_folder

# popitem() succeeds once, for the warm-up, and raises KeyError in the first measured run.
DIES = "from benchmarks.worker import serve; serve(dict(a=3).popitem, 1, 'images', warm_up=1)"
FAST = "from benchmarks.worker import serve; serve(lambda: None, 1, 'images')"
SLOW = (
    "import time; from benchmarks.worker import serve; "
    "serve(lambda: time.sleep(0.02), 1, 'images', 'slowly')"
)


TALKS = (
    "print('loading'); print(3); from benchmarks.worker import serve; "
    "serve(lambda: print('step', flush=True), 1, 'images')"
)


def program(text: str) -> Candidate:
    return Candidate("program", ("-c", text))


def test_ratio_is_our_speed_divided_by_theirs() -> None:
    (result,) = interleave(program(FAST), [program(SLOW)], 3)
    assert isinstance(result, Result)
    assert result.ratio == result.ours_per_second / result.per_second > 1
    assert result.least <= result.per_second <= result.most <= 50  # SLOW sleeps for 1/50 s
    assert (result.unit, result.note) == ("images", "slowly")


def test_run_on_a_gpu_is_several_in_a_row_and_one_wait() -> None:
    """A wait after each run would measure the latency; the units are those of all runs."""
    program_text = (
        "from benchmarks.worker import RUNS_ON_GPU, serve; calls = []; "
        "wait = lambda: calls.append('wait'); "
        "serve(lambda: calls.append('run'), 3, 'images', wait=wait, warm_up=0); "
        "assert calls == 2 * (['wait'] + RUNS_ON_GPU * ['run'] + ['wait']), calls"
    )
    command = [sys.executable, "-c", program_text]
    served = subprocess.run(
        command, input="\n\n", capture_output=True, text=True, env=environment(), check=True
    )
    header, *seconds = served.stdout.splitlines()
    assert json.loads(header)["count"] == 3 * RUNS_ON_GPU
    assert len(seconds) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit('it needs a framework')", "cannot run here: it needs a framework"),
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        (DIES, "program: ended in a run: KeyError: 'popitem(): dictionary is empty'"),
    ],
)
def test_candidate_that_cannot_run_is_reported_and_the_next_is_measured(
    text: str, message: str
) -> None:
    sentence, result = interleave(program(FAST), [program(text), program(SLOW)], 1)
    assert isinstance(sentence, str)
    assert message in sentence
    assert isinstance(result, Result)


def test_interpreter_that_does_not_exist_is_reported() -> None:
    other = Candidate("other", ("-c", FAST), python="/no/such/python")
    (sentence,) = interleave(program(FAST), [other], 1)
    assert sentence == "other: cannot run here: /no/such/python: No such file or directory"


def test_other_lines_of_a_candidate_are_passed_over() -> None:
    (result,) = interleave(program(FAST), [program(TALKS)], 2)
    assert isinstance(result, Result)


@pytest.mark.parametrize("others", [[], [program(FAST)]])
def test_error_if_our_program_cannot_run(others: list[Candidate]) -> None:
    with pytest.raises(ValueError, match="ours: cannot run here: no"):
        next(interleave(Candidate("ours", ("-c", "raise SystemExit('no')")), others, 1))
    with pytest.raises(ValueError, match=r"ours: ended in a run: KeyError: 'popitem\(\)"):
        next(interleave(Candidate("ours", ("-c", DIES)), others, 1))


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param("step recipe=cifar_11 batch=2 classes=10", marks=pytest.mark.slow),
        pytest.param(
            "step recipe=cifar_11 batch=2 classes=10 normalise=False precision=bfloat16",
            marks=pytest.mark.slow,
        ),
        "matmul side=8 macs_per_image=4",
    ],
)
def test_our_program_runs_in_a_process_of_its_own(arguments: str) -> None:
    command = [sys.executable, "-m", "benchmarks.ours", *arguments.split()]
    completed = subprocess.run(command, input="\n\n", capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr
    header, *seconds = completed.stdout.splitlines()
    assert json.loads(header)["count"] > 0
    assert len([float(s) for s in seconds]) == 2


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("infer", {"recipe": "cifar_11", "batch": 2}),
        ("infer", {"recipe": "cifar_11", "batch": 2, "raw": True}),
        pytest.param(
            "infer",
            {"recipe": "cifar_11", "batch": 2, "precision": "bfloat16"},
            marks=pytest.mark.slow,  # times each product first
        ),
        ("lrn", {"batch": 1}),
        ("lrn", {"batch": 1, "kind": "pytorch"}),
        ("copy", {"batch": 1}),
        ("prepare", {"images": 3}),
        ("prepare", {"images": 3, "complete": False}),
        ("loader", {"batch": 8, "images": 8}),
        ("decode", {"images": 8}),
    ],
)
def test_our_other_candidates_run(
    what: str,
    arguments: dict[str, Any],
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this process, and once: a process of its own takes seconds."""
    # For the loader; it would stay set for the tests that follow.
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    if what in ("loader", "decode"):
        arguments = {**arguments, "data": str(store)}
    if what == "prepare":
        arguments = {**arguments, "data": str(class_folder(tmp_path / "images"))}
    served: list[tuple[float, str]] = []

    def serve(run: Callable[[], object], count: float, unit: str, *rest: Any, **more: Any) -> None:
        run()
        served.append((count, unit))

    monkeypatch.setattr(ours, "serve", serve)
    ours.CANDIDATES[what](**arguments)
    ((count, unit),) = served
    assert count > 0
    assert unit == ("values" if what in ("lrn", "copy") else "images")


def test_our_network_does_the_work_of_an_exported_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It takes the same values, in the same layout, and subtracts the mean in each run."""
    monkeypatch.setattr(suites, "_export", lambda folder: folder / "paper.onnx")
    for comparison in suites.infer(suites.Settings(), tmp_path):
        exported = [one for one in comparison.others if "onnx_net.py" in one.arguments[0]]
        assert ("raw=True" in comparison.ours.arguments) == bool(exported)
        assert len(exported) in (0, len(comparison.others))
    fed: list[torch.Tensor] = []
    real = ours._preprocessed

    def preprocessed(x: torch.Tensor, precision: str) -> torch.Tensor:
        fed.append(x)
        return real(x, precision)

    monkeypatch.setattr(ours, "_preprocessed", preprocessed)
    monkeypatch.setattr(ours, "serve", lambda run, *rest, **more: (run(), run()))
    ours.infer("cifar_11", batch=2, raw=True)
    assert len(fed) == 2
    assert all(x.dtype == torch.float32 and x.is_contiguous() for x in fed)
    assert all(-120 <= float(x.min()) < -60 and 60 < float(x.max()) <= 135 for x in fed)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_our_program_is_measured_with_the_switches_of_training(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []

    def candidate(precision: str) -> None:
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark))

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision != "tf32")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setitem(ours.CANDIDATES, "step", candidate)
    monkeypatch.setattr(sys, "argv", ["ours", "step", f"precision={precision}"])
    ours.main()
    assert seen == [(precision == "tf32", True)]


def test_plain_pytorch_on_a_gpu_says_that_its_float32_is_tf32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert plain.in_words("float32", "cuda") == "float32 with convolutions in TF32"
    assert plain.in_words("float32", "cpu") == "float32"
    assert plain.in_words("bfloat16", "cuda") == "bfloat16"


def test_our_losses_are_those_of_plain_pytorch(tmp_path: Path) -> None:
    lab = Lab(tmp_path, "correctness", tiny=True)
    config = training_config(lab, 2, "float32")
    made = [images_for(lab, config, seed) for seed in range(3)]
    data = [(images.batch, images.augmentation) for images in made]
    ours, theirs = (
        same_training.losses(kind(config, made[0].preprocess), data)
        for kind in (same_training.loop, same_training.plain)
    )
    assert len(set(theirs.tolist())) == 3
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_jax_draws_new_masks_in_each_step() -> None:
    pytest.importorskip("jax", reason="needs the extra bench")
    jax, jax_net = (importlib.import_module(name) for name in ("jax", "benchmarks.jax_net"))
    key = jax.random.key(0)
    weights = jax_net.initial_weights(key)
    velocity = jax.tree.map(jax.numpy.zeros_like, weights)
    x, labels = jax.random.normal(key, (1, 224, 224, 3)), jax.numpy.arange(1)
    step = jax.jit(partial(jax_net.step, precision=jax.numpy.dtype("float32")))
    first, second, again = (
        step(weights, velocity, x, labels, key, number)[0]["fc7"][0] for number in (0, 1, 0)
    )
    assert (first == again).all()
    assert (first != second).any()


def test_dali_is_credited_with_the_whole_batches_that_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(suites.ROOT / "benchmarks"))
    feeders = importlib.import_module("benchmarks.feeders")
    built = MagicMock()
    dali = MagicMock(pipeline_def=lambda **settings: lambda define: lambda: built)
    dali.__version__ = "2.4"
    monkeypatch.setitem(sys.modules, "nvidia", MagicMock(dali=dali))
    monkeypatch.setitem(sys.modules, "nvidia.dali", dali)
    files = [Path(f"{number}.jpg") for number in range(5)]
    run, images, _ = feeders.dali(files, "", workers=1, batch=2)
    run()
    assert images == 2 * built.run.call_count == 6


def test_a_machine_with_one_gpu_has_no_link_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes would be joined by the CPU's memory, while the step is the GPU's."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="one GPU has no link to another"):
        main(["scale"])


FRAME = """\
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
benchmarks.scale FAILED
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  exitcode  : -9 (pid: 7)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 7
============================================================
"""


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        (FRAME, "traceback : Signal 9 (SIGKILL) received by PID 7"),
        (f"Traceback (most recent call last):\nRuntimeError: no address\n{FRAME}", "no address"),
        (f"[rank1]: torch.distributed.DistBackendError: lost\n{FRAME}", "DistBackendError: lost"),
        ("", "no reason given"),
    ],
)
def test_ranks_that_cannot_start_are_reported_with_the_reason(
    errors: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun's last line is the border of its frame."""

    program = f"import sys; sys.stderr.write({errors!r}); sys.exit(1)"
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **rest: popen([command[0], "-c", program], **rest)
    )
    with pytest.raises(ValueError, match="two ranks could not be started here: ") as refused:
        scale.link()
    assert str(refused.value).endswith(reason)


def test_ranks_that_hang_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen
    started: list[subprocess.Popen[str]] = []

    def hang(command: list[str], **rest: Any) -> subprocess.Popen[str]:
        started.append(popen([command[0], "-c", "import time; time.sleep(60)"], **rest))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", hang)
    monkeypatch.setattr(scale, "LINK_LIMIT_S", 0.1)
    with pytest.raises(ValueError, match=r"did not finish measuring their link within 0\.1 s"):
        scale.link()
    assert started[0].returncode is not None


def test_results_name_the_code_version(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = suites.Comparison("nothing", program(FAST), ())
    monkeypatch.setitem(suites.SUITES, "nothing", lambda settings, folder: [comparison])
    (result,) = map(json.loads, suites.bench("nothing", suites.Settings(), 1, as_json=True))
    assert result["code"] == code_version()
    assert describe(code_version()) in list(suites.bench("nothing", suites.Settings(), 1, False))


def test_every_suite_names_candidates_that_exist(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would write the full-size network.
    monkeypatch.setattr(suites, "_export", lambda folder: folder / "paper.onnx")
    for what, make in suites.SUITES.items():
        (tmp_path / what).mkdir()
        for comparison in make(suites.Settings(data=str(store)), tmp_path / what):
            for candidate in (comparison.ours, *comparison.others):
                first, *_ = candidate.arguments
                assert (
                    candidate.arguments[2] in ours.CANDIDATES
                    if first == "-m"
                    else Path(first).is_file()
                )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{tmp}/none {tmp}/out.png", "{tmp}/none is not a prepared store"),
        ("{store} {tmp}/out.png", "sees 224 pixels per side, and the store has 40"),
        ("{store} {tmp}/out.png --batch 0", "--steps and --batch must be at least 1"),
        ("{store} {tmp}/kept.png", "{tmp}/kept.png must be a new .png file"),
        ("{store} {tmp}/out.svg", "{tmp}/out.svg must be a new .png file"),
        ("{store} {tmp}/none/out.png", "there is no folder {tmp}/none; make it first"),
    ],
)
def test_same_training_answers_bad_input_in_one_sentence(
    arguments: str,
    message: str,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "kept.png").write_text("kept")
    with pytest.raises(SystemExit) as stopped:
        same_training.main(arguments.format(store=store, tmp=tmp_path).split())
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("same_training.py: ") and error.count("\n") == 1
    assert message.format(tmp=tmp_path) in error
    assert (tmp_path / "kept.png").read_text() == "kept"


@pytest.mark.slow
def test_same_training_draws_both_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = training_config(Lab(tmp_path, "correctness", tiny=True), 2, "float32")
    monkeypatch.setattr("alexnet.recipes.paper", lambda: tiny)
    prepare(shapes.source(12, 10), tmp_path / "store", StoreSettings(size_px=80))
    out = tmp_path / "out.png"
    same_training.main([str(tmp_path / "store"), str(out), "--steps", "3", "--batch", "4"])
    printed = capsys.readouterr().out
    assert "ours: 3 steps in" in printed and "plain PyTorch: 3 steps in" in printed
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare"], "--data SOURCE"),
        (["ops", "--rounds", "0"], "at least 1"),
        (["loader", "--data", "nowhere"], "nowhere is not a prepared store"),
    ],
)
def test_invalid_arguments_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(arguments)
