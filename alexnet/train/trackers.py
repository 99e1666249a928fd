"""Experiment trackers, which also receive the numbers of metrics.jsonl.

TensorBoard is used wherever it is installed. The environment variable ALEXNET_TRACKERS names the
trackers that send data elsewhere or need a server: `mlflow`, `wandb`, or both with a comma. Each of
these has a thread of its own, since a server may be silent for minutes, and the other ranks give up
waiting for the first one sooner.
"""

from __future__ import annotations

import os
import queue
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import Any, Literal, Protocol

from alexnet.errors import AlexNetError, ConfigError, RunError, not_installed
from alexnet.files import write_whole
from alexnet.terminal import print_if_read

MOST_WAITING = 1000
"""Calls of a tracker that may wait for its server: the numbers of some ninety epochs."""
PATIENCE_S = 5.0
"""Longest time that a training waits for all trackers together, at its beginning and at its end. It
is shorter than `heartbeat.SILENT_S`, after which the first rank, which waits, would take the ranks
that have left before it for dead ones."""

Outcome = Literal["finished", "stopped", "failed"]
"""How a training ended: failed by an error, or stopped by its user or by a signal."""


class Tracker(Protocol):
    """What receives the numbers of a run."""

    def add_scalar(self, name: str, value: float, step: int) -> Any:
        """Add a number, such as `epoch/val_error`, of a step."""

    def close(self, outcome: Outcome) -> Any:
        """Write what is pending, at the end of the process."""


class Trackers:
    """The trackers of a run. One that fails gets no more numbers: training goes on without it."""

    def __init__(self, run: Path) -> None:
        """Open the trackers.

        Raises:
            ConfigError: ALEXNET_TRACKERS names a tracker that does not exist.
            RunError: It names one that is not installed, or cannot be opened.
        """
        self._trackers = _opened(run)
        self._left_out: list[Tracker] = []

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Give all numbers of a line of the log to each tracker."""
        self._tell(
            lambda tracker: [tracker.add_scalar(name, x, step) for name, x in numbers.items()]
        )

    def close(self, outcome: Outcome) -> None:
        """Close the trackers, also those that were left out because they did not keep up."""
        left_out = tuple(self._left_out)
        self._tell(lambda tracker: tracker.close(outcome))
        for tracker in left_out:
            with suppress(Exception):
                tracker.close(outcome)
        # All at once, so that two silent servers cost no more time than one.
        until_s = _deadline_s()

        def wait(tracker: Tracker) -> None:
            if isinstance(tracker, InThread):
                tracker.wait_closed(until_s)

        self._tell(wait)
        for tracker in left_out:
            with suppress(Exception):
                wait(tracker)

    def _tell(self, call: Callable[[Tracker], Any]) -> None:
        for tracker in tuple(self._trackers):
            try:
                call(tracker)
            except Exception as error:  # Each library has its own, and servers vanish.
                self._trackers.remove(tracker)
                self._left_out.append(tracker)
                name = getattr(tracker, "name", type(tracker).__name__)
                text = f"warning: {name} failed and gets no more numbers: {error}"
                print_if_read(text, err=True)


def _opened(run: Path) -> list[Tracker]:
    check_named()
    board = _tensorboard(run)
    begun = [InThread(name, run) for name in _named()]
    opened: list[Tracker] = [*([] if board is None else [board]), *begun]
    until_s = _deadline_s()
    for tracker in begun:
        try:
            tracker.wait_open(until_s)
        # Each library has its own. After Ctrl-C, too, no thread and no run must seem to go on.
        except BaseException as error:
            is_stop = not isinstance(error, Exception)
            for each in opened:
                with suppress(Exception):
                    each.close("stopped" if is_stop else "failed")
            for other in begun:
                with suppress(Exception):
                    other.wait_closed(until_s)
            if is_stop or isinstance(error, AlexNetError):
                raise
            raise RunError(
                f"{tracker.name} cannot be opened ({error}); leave it out of ALEXNET_TRACKERS to "
                "train without it"
            ) from error
    return opened


def _deadline_s() -> float:
    """The time of `time.monotonic` until which a training waits for its trackers from now on."""
    return time.monotonic() + PATIENCE_S


def check_named() -> None:
    """Refuse an unknown tracker, or one that is not installed, before a run is begun or resumed.

    Raises:
        ConfigError: ALEXNET_TRACKERS names a tracker that does not exist.
        RunError: It names one that is not installed.
    """
    for name in _named():
        if name not in KNOWN:
            raise ConfigError(
                f"ALEXNET_TRACKERS names {name!r}; the trackers are {' and '.join(KNOWN)}"
            )
    for name in _named():
        # Not by importing it, which takes seconds.
        if sys.modules.get(name) is None and util.find_spec(name) is None:
            raise RunError(not_installed(f"ALEXNET_TRACKERS={name}", name))


def _named() -> list[str]:
    return os.environ.get("ALEXNET_TRACKERS", "").replace(",", " ").split()


def _tensorboard(run: Path) -> Tracker | None:
    # TensorBoard is not among the dependencies.
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        return TensorBoard(SummaryWriter(str(run / "tensorboard")))
    except Exception as error:  # Nobody asked for it, so training goes on.
        print_if_read(f"warning: TensorBoard gets no numbers: {error}", err=True)
        return None


class TensorBoard:
    """TensorBoard's files in RUN/tensorboard."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def close(self, outcome: Outcome) -> None:
        self._writer.close()


class InThread:
    """A tracker of `KNOWN`, opened and called in a thread, so that training waits for no server.

    An error of the tracker is raised by the call after it, and a TimeoutError if its server does
    not keep up.
    """

    def __init__(self, name: str, run: Path) -> None:
        """Begin to open the tracker."""
        self.name = name
        self._calls: queue.SimpleQueue[Callable[[Tracker], Any] | None] = queue.SimpleQueue()
        self._opened, self._error = threading.Event(), list[Exception]()
        # A daemon, so that the process can end while a server is silent.
        self._thread = threading.Thread(target=self._work, args=(run,), daemon=True)
        self._thread.start()

    def wait_open(self, until_s: float) -> None:
        """Wait until the tracker is open, but not after this time of `time.monotonic`.

        Raises the error of a tracker that cannot be opened.
        """
        self._opened.wait(max(0.0, until_s - time.monotonic()))
        self._raise()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._raise()
        if self._calls.qsize() >= MOST_WAITING:
            raise TimeoutError("its server does not keep up")
        self._calls.put(lambda tracker: tracker.add_scalar(name, value, step))

    def close(self, outcome: Outcome) -> None:
        """Begin to close the tracker, also where calls are waiting; `wait_closed` waits for it."""
        self._raise()
        self._calls.put(lambda tracker: tracker.close(outcome))
        self._calls.put(None)

    def wait_closed(self, until_s: float) -> None:
        """Wait until the tracker is closed, but not after this time of `time.monotonic`."""
        self._thread.join(max(0.0, until_s - time.monotonic()))
        self._raise()
        if self._thread.is_alive():
            raise TimeoutError(f"its server has not taken all of them in {PATIENCE_S:g} s")

    def _raise(self) -> None:
        if self._error:
            raise self._error[0]

    def _work(self, run: Path) -> None:
        try:
            tracker = KNOWN[self.name](run)
            self._opened.set()
            while (call := self._calls.get()) is not None:
                call(tracker)
        # Raised where the training calls. A library's SystemExit must not end the training there.
        except BaseException as error:
            self._error.append(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            self._opened.set()


def _id(run: Path, tracker: str, new: Callable[[], str]) -> str:
    """The tracker's name of a run, kept in the run folder: a resumed run continues its curves."""
    path = run / f"{tracker}.id"
    if not path.exists():
        write_whole(path, new().encode())
    return path.read_text(encoding="utf-8")


class MlFlow:
    """MLflow: the server of MLFLOW_TRACKING_URI; otherwise the database RUN/mlflow.db.

    The experiment is that of MLFLOW_EXPERIMENT_NAME, or `alexnet`.
    """

    def __init__(self, run: Path) -> None:
        from mlflow import MlflowClient

        # A database, since newer versions of MLflow refuse to write to a plain folder.
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.resolve()}/mlflow.db"
        client = self._client = MlflowClient(uri)
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "alexnet"

        def new() -> str:
            existing = client.get_experiment_by_name(experiment)
            number = existing.experiment_id if existing else client.create_experiment(experiment)
            created: str = client.create_run(number, run_name=run.resolve().name).info.run_id
            return created

        self._run = _id(run, "mlflow", new)
        client.set_terminated(self._run, "RUNNING")

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._client.log_metric(self._run, name, value, step=step)

    def close(self, outcome: Outcome) -> None:
        states: dict[Outcome, str] = {
            "finished": "FINISHED",
            "stopped": "KILLED",
            "failed": "FAILED",
        }
        self._client.set_terminated(self._run, states[outcome])


class WeightsAndBiases:
    """Weights & Biases, offline unless WANDB_MODE says otherwise; `wandb sync` sends the run."""

    def __init__(self, run: Path) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "alexnet",
            name=run.resolve().name,
            dir=str(run),
            id=_id(run, "wandb", lambda: secrets.token_hex(8)),
            resume="allow",
            mode=os.environ.get("WANDB_MODE") or "offline",
        )

    def add_scalar(self, name: str, value: float, step: int) -> None:
        # The step is a number of its own: wandb's would have to grow with every call.
        self._run.log({name: value, "step": step})

    def close(self, outcome: Outcome) -> None:
        self._run.finish(exit_code=int(outcome != "finished"))


# The library of each has the same name.
KNOWN: dict[str, Callable[[Path], Tracker]] = {"mlflow": MlFlow, "wandb": WeightsAndBiases}
