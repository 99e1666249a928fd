"""MLflow and Weights & Biases get the numbers of metrics.jsonl, and a resumed run continues theirs.

Fakes that record the calls stand for the libraries, which are large.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from alexnet.distributed import heartbeat
from alexnet.errors import AlexNetError, ConfigError, RunError
from alexnet.train import trackers
from alexnet.train.run_log import RunLog, read_metrics
from alexnet.train.start import fit, resume
from alexnet.train.trackers import InThread, Outcome, Tracker
from tests.conftest import tiny
from tests.runs import stopped_after


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALEXNET_TRACKERS", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    # Its writer takes seconds to import where it is installed.
    monkeypatch.setattr("alexnet.train.trackers._tensorboard", lambda run: None)


def write(run: Path) -> None:
    """A start and an epoch, as training writes them."""
    with RunLog(run, 0, 0) as log:
        log.write("start", 0, signal={"fc8": [0.5, 0.1]}, images=60)
        log.write("epoch", 4, epoch=1, val_error=0.25)


class FakeMlflowClient:
    """Records what it is told, for all clients together."""

    calls: list[tuple[Any, ...]]

    def __init__(self, uri: str) -> None:
        self.calls.append(("client", uri))

    def get_experiment_by_name(self, name: str) -> None:
        self.calls.append(("experiment", name))

    def create_experiment(self, name: str) -> str:
        return "7"

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        self.calls.append(("run", experiment, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.calls.append((run, name, value, step))

    def set_terminated(self, run: str, status: str | None = None) -> None:
        self.calls.append((run, status))


def test_mlflow_gets_the_numbers_and_a_resumed_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = ModuleType("mlflow")
    fake.MlflowClient = FakeMlflowClient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    FakeMlflowClient.calls = calls = []
    monkeypatch.setenv("ALEXNET_TRACKERS", "mlflow")
    write(tmp_path)
    numbers = [
        ("abc", "start/images", 60, 0),
        ("abc", "epoch/epoch", 1, 4),
        ("abc", "epoch/val_error", 0.25, 4),
    ]
    assert calls == [
        ("client", f"sqlite:///{tmp_path}/mlflow.db"),
        ("experiment", "alexnet"),
        ("run", "7", tmp_path.name),
        ("abc", "RUNNING"),
        *numbers,
        ("abc", "FINISHED"),
    ]
    calls.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    write(tmp_path)
    assert calls == [("client", "http://server"), ("abc", "RUNNING"), *numbers, ("abc", "FINISHED")]
    # One that was stopped, or had an error, is not finished.
    with pytest.raises(KeyboardInterrupt), RunLog(tmp_path, 0, 0):
        raise KeyboardInterrupt
    assert calls[-1] == ("abc", "KILLED")
    with pytest.raises(RunError), RunLog(tmp_path, 0, 0):
        raise RunError("no memory is left")
    assert calls[-1] == ("abc", "FAILED")


def test_wandb_is_offline_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []
    logged: list[dict[str, float]] = []

    def finish(exit_code: int) -> None:
        logged.append({"exit code": exit_code})

    def init(**settings: Any) -> SimpleNamespace:
        begun.append(settings)
        return SimpleNamespace(log=logged.append, finish=finish)

    fake = ModuleType("wandb")
    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("ALEXNET_TRACKERS", "wandb")
    write(tmp_path)
    assert logged == [
        {"start/images": 60, "step": 0},
        {"epoch/epoch": 1, "step": 4},
        {"epoch/val_error": 0.25, "step": 4},
        {"exit code": 0},
    ]
    monkeypatch.setenv("WANDB_MODE", "online")
    write(tmp_path)
    first, second = begun
    assert (first["mode"], second["mode"]) == ("offline", "online")
    assert first["id"] == second["id"]
    assert (first["dir"], first["resume"]) == (str(tmp_path), "allow")


def test_no_tracker_is_asked_without_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An import of either would fail.
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    for name in ("mlflow", "wandb"):
        monkeypatch.setenv("ALEXNET_TRACKERS", name)
        with pytest.raises(RunError, match=rf"needs {name}: .* -m pip install {name}$"):
            write(tmp_path)
    monkeypatch.setenv("ALEXNET_TRACKERS", "mlflow,comet")
    with pytest.raises(ConfigError, match="names 'comet'; the trackers are mlflow and wandb"):
        write(tmp_path)


def test_wrong_tracker_is_refused_before_the_run_is_begun(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    for name, message in (("comet", "names 'comet'"), ("mlflow", "needs mlflow")):
        monkeypatch.setenv("ALEXNET_TRACKERS", name)
        with pytest.raises(AlexNetError, match=message):
            fit(tiny(store), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_wrong_tracker_is_refused_before_a_resumed_run_is_changed(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A line that the run will write again.
    with (copied_run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "change", "step": 999, "epoch": 99, "lr": 0.1, "epochs": 100}\n')
    before = (copied_run / "metrics.jsonl").read_bytes()
    monkeypatch.setenv("ALEXNET_TRACKERS", "comet")
    with pytest.raises(ConfigError, match="names 'comet'"):
        resume(copied_run, epochs=4)
    assert (copied_run / "metrics.jsonl").read_bytes() == before


class BrokenTracker:
    """Its server has vanished."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        raise OSError("connection refused")

    def close(self, outcome: Outcome) -> None:
        raise OSError("connection refused")


def test_tracker_that_fails_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alexnet.train.trackers._tensorboard", lambda run: BrokenTracker())
    write(tmp_path)
    assert len(read_metrics(tmp_path)) == 2
    message = "warning: BrokenTracker failed and gets no more numbers: connection refused\n"
    assert capsys.readouterr().err == message


def ask_for(monkeypatch: pytest.MonkeyPatch, tracker: Callable[[Path], Tracker]) -> None:
    """Let a tracker stand for MLflow."""
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setitem(trackers.KNOWN, "mlflow", tracker)
    monkeypatch.setenv("ALEXNET_TRACKERS", "mlflow")


def test_server_that_fails_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask_for(monkeypatch, lambda run: BrokenTracker())
    write(tmp_path)
    assert len(read_metrics(tmp_path)) == 2
    message = "warning: mlflow failed and gets no more numbers: connection refused\n"
    assert capsys.readouterr().err == message


class SilentTracker:
    """Its server does not answer the call of this name."""

    def __init__(self, silent: str, answer: threading.Event) -> None:
        self.silent, self.answer = silent, answer
        self.say("open")

    def say(self, call: str) -> None:
        if call == self.silent:
            assert self.answer.wait(60)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.say("add")

    def close(self, outcome: Outcome) -> None:
        self.say("close")


@pytest.mark.parametrize(
    ("silent", "waiting", "message"),
    [
        ("open", 9, "its server has not taken all of them in 0.05 s"),
        ("add", 1, "its server does not keep up"),
        ("add", 9, "its server has not taken all of them in 0.05 s"),
        ("close", 9, "its server has not taken all of them in 0.05 s"),
    ],
)
def test_training_does_not_wait_for_a_server(
    silent: str,
    waiting: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The other ranks would give up waiting for the first one."""
    monkeypatch.setattr(trackers, "PATIENCE_S", 0.05)
    monkeypatch.setattr(trackers, "MOST_WAITING", waiting)
    answer = threading.Event()
    ask_for(monkeypatch, lambda run: SilentTracker(silent, answer))
    write(tmp_path)
    assert not answer.is_set()
    assert len(read_metrics(tmp_path)) == 2
    said = f"warning: mlflow failed and gets no more numbers: {message}\n"
    assert capsys.readouterr().err == said
    answer.set()


def test_two_silent_servers_cost_no_more_time_than_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first rank would take those that have left it for dead ones after `SILENT_S`."""
    assert trackers.PATIENCE_S < heartbeat.SILENT_S
    monkeypatch.setattr(trackers, "PATIENCE_S", 0.05)
    answer, waits = threading.Event(), list[tuple[str, float]]()
    ask_for(monkeypatch, lambda run: SilentTracker("close", answer))
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    monkeypatch.setitem(trackers.KNOWN, "wandb", lambda run: SilentTracker("close", answer))
    monkeypatch.setenv("ALEXNET_TRACKERS", "mlflow,wandb")
    for name in ("wait_open", "wait_closed"):
        real = getattr(InThread, name)

        def noted(tracker: InThread, until_s: float, name: str = name, real: Any = real) -> None:
            waits.append((name, until_s))
            real(tracker, until_s)

        monkeypatch.setattr(InThread, name, noted)
    write(tmp_path)
    answer.set()
    assert [name for name, _ in waits] == 2 * ["wait_open"] + 2 * ["wait_closed"]
    assert len({until_s for _, until_s in waits}) == 2
    assert capsys.readouterr().err.count("has not taken all of them") == 2


def test_tracker_that_lags_far_behind_is_told_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server answers while the training waits for it."""
    monkeypatch.setattr(trackers, "MOST_WAITING", 3)
    answer, told = threading.Event(), list[str]()

    class Slow(SilentTracker):
        def close(self, outcome: Outcome) -> None:
            told.append("end")

    wait = InThread.wait_closed

    def answered(tracker: InThread, until_s: float) -> None:
        answer.set()
        wait(tracker, until_s)

    monkeypatch.setattr(InThread, "wait_closed", answered)
    ask_for(monkeypatch, lambda run: Slow("open", answer))
    monkeypatch.setattr(InThread, "wait_open", lambda *_: None)
    write(tmp_path)
    assert told == ["end"]


def test_tracker_that_is_left_out_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "MOST_WAITING", 1)
    monkeypatch.setattr(trackers, "PATIENCE_S", 0.05)
    answer = threading.Event()
    ask_for(monkeypatch, lambda run: SilentTracker("add", answer))
    before = threading.enumerate()
    write(tmp_path)
    answer.set()
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(60)
            assert not thread.is_alive()


def test_tracker_that_is_left_out_is_told_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its server may answer again; the run would seem to go on there."""
    monkeypatch.setattr(trackers, "MOST_WAITING", 1)
    answer, told = threading.Event(), list[str]()

    class Slow(SilentTracker):
        def close(self, outcome: Outcome) -> None:
            told.append(outcome)

    ask_for(monkeypatch, lambda run: Slow("add", answer))
    with pytest.raises(KeyboardInterrupt), RunLog(tmp_path, 0, 0) as log:
        log.write("epoch", 4, epoch=1, val_error=0.25, val_loss=0.5)
        assert "its server does not keep up" in capsys.readouterr().err
        answer.set()
        raise KeyboardInterrupt
    assert told == ["stopped"]
    assert capsys.readouterr().err == ""


def test_ctrl_c_while_trackers_are_opened_closes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Outcome] = []
    ask_for(monkeypatch, lambda run: SimpleNamespace(close=closed.append, add_scalar=None))

    def stopped(tracker: InThread, until_s: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(InThread, "wait_open", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert closed == ["stopped"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_exit_of_a_library_is_an_error_of_its_tracker(
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def leave(*_: object) -> None:
        raise error

    monkeypatch.setattr(BrokenTracker, "add_scalar", leave)
    ask_for(monkeypatch, lambda run: BrokenTracker())
    write(tmp_path)
    assert capsys.readouterr().err.count("warning: mlflow failed and gets no more numbers: ") == 1
    ask_for(monkeypatch, leave)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="mlflow cannot be opened"):
        write(tmp_path)


def test_training_that_is_stopped_is_no_failure(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Outcome] = []
    tracker = SimpleNamespace(close=closed.append, add_scalar=lambda *_: None)
    monkeypatch.setattr("alexnet.train.trackers._tensorboard", lambda run: tracker)
    with stopped_after(1):
        fit(tiny(store), tmp_path / "run")
    assert closed == ["stopped"]


@pytest.mark.parametrize("fails", ["diagnostics.signal", "train.loop.Checkpoints"])
def test_trackers_are_closed_if_the_training_fails_before_its_first_step(
    fails: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise RunError("no memory is left")

    closed: list[Outcome] = []
    tracker = SimpleNamespace(close=closed.append)
    monkeypatch.setattr("alexnet.train.trackers._tensorboard", lambda run: tracker)
    monkeypatch.setattr(f"alexnet.{fails}", fail)
    with pytest.raises(RunError, match="no memory is left"):
        fit(tiny(store), tmp_path / "run")
    assert closed == ["failed"]


def test_tracker_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**settings: Any) -> None:
        raise OSError("no API key")

    fake = ModuleType("wandb")
    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("ALEXNET_TRACKERS", "wandb")
    with pytest.raises(RunError, match=r"wandb cannot be opened \(no API key\); leave it out of"):
        write(tmp_path)


def test_ranks_that_do_not_write_open_no_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A rank that opened its trackers would refuse this name.
    monkeypatch.setenv("ALEXNET_TRACKERS", "comet")
    with RunLog(tmp_path, 0, 0, writes=False):
        pass
    assert not list(tmp_path.iterdir())
