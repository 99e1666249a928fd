"""The ways to compute a convolution on CUDA, and the trial that chooses one of them.

Without a GPU the ways run on the CPU, and the seconds of a trial are invented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from alexnet import native
from alexnet.environment import components
from alexnet.ops import convolution, cuda_trial, linear, trial
from alexnet.ops.cuda_trial import CudaWay

CONV2, CONV1 = (1, (2, 2), 2), (4, (0, 3), 1)
"""Stride, padding and columns of two layers of the paper."""


def layer(channels: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An input and filters."""
    x = torch.randn(3, channels, 23, 23).contiguous(memory_format=torch.channels_last)
    size = 5 if columns > 1 else 11
    return x, torch.randn(8, channels // columns, size, size)


def timed_kernels() -> str:
    """What `alexnet check` says of them."""
    return next(part.text for part in components() if part.name == "kernels")


@pytest.fixture(autouse=True)
def seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[float]]:
    """The seconds that the next trials measure, in order; each needs as many as it has ways."""
    measured: list[float] = []

    def turn_of(run: Callable[[], object]) -> Callable[[], float]:
        run()
        time_s = measured.pop(0)
        return lambda: time_s

    # They are loaded before, from the user's own cache.
    native.kernels(), native.winograd(), native.arena()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # On a card the CPU's ways are not timed.
    monkeypatch.setattr(trial, "_possible", lambda product: (trial.DIRECT,))
    monkeypatch.setattr(cuda_trial, "_CHOSEN", {})
    monkeypatch.setattr(cuda_trial, "possible", lambda x: True)
    monkeypatch.setattr(cuda_trial, "turn_of", turn_of)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(cuda_trial, "_card", lambda device: "a card")
    monkeypatch.setattr(cuda_trial, "_cudnn", lambda: 9)
    yield measured
    assert not measured


def test_trials_with_and_without_tf32_are_apart() -> None:
    """cuDNN has other kernels for them. The user's switches may contradict PyTorch's older one."""
    cuda, conv = torch.device("cuda"), torch.backends.cudnn.conv  # type: ignore[attr-defined]
    conv.fp32_precision = "ieee"
    without = cuda_trial._where(cuda)
    conv.fp32_precision = "tf32"  # until the next test begins
    with pytest.raises(RuntimeError, match="TF32"):
        _ = torch.backends.cudnn.allow_tf32
    assert cuda_trial._where(cuda) != without


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_trial, "_CHOSEN", {})


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("channels", "settings", "names"),
    [(6, CONV2, ["grouped", "column by column"]), (3, CONV1, ["grouped", "in blocks"])],
    ids=["columns", "blocks"],
)
def test_every_way_gives_the_same_result_and_gradients(
    channels: int, settings: tuple[int, tuple[int, int], int], names: list[str], with_bias: bool
) -> None:
    stride, _, columns = settings
    x, weight = layer(channels, columns)
    ways = linear.cuda_ways(x, stride, columns)
    assert list(ways) == names
    results = []
    for way in ways.values():
        leaves = [x.double().requires_grad_(), weight.double().requires_grad_()]
        bias = torch.ones(8).double().requires_grad_() if with_bias else None
        y = way(*leaves, bias, *settings)
        every = [*leaves, *([] if bias is None else [bias])]
        results.append((y, *torch.autograd.grad(y.square().sum(), every)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_layer_without_a_choice_needs_no_trial() -> None:
    x, _ = layer(6, 1)
    assert list(linear.cuda_ways(x, 1, 1)) == ["grouped"]
    convolution(x, torch.randn(8, 6, 5, 5), None, training=True)


@pytest.mark.parametrize(("times", "chosen"), [([2.0, 1.0], 1), ([1.0, 2.0], 0)])
def test_training_takes_the_faster_way_of_one_trial(
    times: list[float], chosen: int, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def ways(*arguments: object) -> dict[str, CudaWay]:
        def way(number: int) -> CudaWay:
            def run(x: torch.Tensor, weight: torch.Tensor, *rest: object) -> torch.Tensor:
                taken.append(number)
                return x.sum() * weight.sum()

            return run

        return {"first": way(0), "second": way(1)}

    monkeypatch.setattr(linear, "cuda_ways", ways)
    x, weight = layer(6, 2)
    seconds += times
    for _ in range(2):
        convolution(x, weight, None, 1, (2, 2), 2, training=True)
    new_process(monkeypatch)
    convolution(x, weight, None, 1, (2, 2), 2, training=True)
    assert taken == [0, 1, chosen, chosen, chosen]
    # Another batch is another shape, and so another trial.
    seconds += [2.0, 1.0]
    convolution(x[:2], weight, None, 1, (2, 2), 2, training=True)
    assert taken[5:] == [0, 1, 1]


@pytest.mark.parametrize("with_inference_mode", [False, True])
def test_a_trial_is_apart_from_what_the_caller_records(
    with_inference_mode: bool, seconds: list[float]
) -> None:
    """Hooks on saved tensors, as those of `torch.utils.checkpoint`, and inference mode."""
    saved: list[torch.Tensor] = []
    seconds += [2.0, 1.0]
    with (
        torch.inference_mode(with_inference_mode),
        torch.autograd.graph.saved_tensors_hooks(saved.append, lambda none: none),
    ):
        x, weight = layer(6, 2)
        ways = linear.cuda_ways(x, 1, 2)
        assert cuda_trial.fastest(ways, x, weight, None, *CONV2) is ways["column by column"]
    assert saved == []


def test_a_trial_runs_on_the_gpu_of_its_tensors(
    seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    current = ["another"]

    @contextmanager
    def device_of(x: torch.Tensor) -> Iterator[None]:
        current[0] = "that of x"
        yield
        current[0] = "another"

    turn_of = cuda_trial.turn_of

    def watched(run: Callable[[], object]) -> Callable[[], float]:
        assert current == ["that of x"]
        turn = turn_of(run)

        def watched_turn() -> float:
            assert current == ["that of x"]
            return turn()

        return watched_turn

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(cuda_trial, "turn_of", watched)
    x, weight = layer(6, 2)
    seconds += [2.0, 1.0]
    cuda_trial.fastest(linear.cuda_ways(x, 1, 2), x, weight, None, *CONV2)
    assert current == ["another"]


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        # Another program has the card in some of the turns.
        ([3.0, 3.0, 3.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0, 2.0], "grouped"),
        ([2.0, 2.0, 2.0, 2.0, 2.0], [3.0, 1.0, 3.0, 3.0, 3.0], "column by column"),
        # Nearly as fast is not faster.
        ([1.0, 1.0, 1.0, 1.0, 1.0], [0.95, 0.95, 0.95, 0.95, 0.95], "grouped"),
    ],
)
def test_ways_take_turns_and_the_shortest_time_counts(
    first: list[float], second: list[float], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, taken = [("second", second), ("first", first)], list[str]()

    def turn_of(run: Callable[[], object]) -> Callable[[], float]:
        name, times = left.pop()
        next_s = iter(times)

        def turn() -> float:
            taken.append(name)
            return next(next_s)

        return turn

    monkeypatch.setattr(cuda_trial, "turn_of", turn_of)
    x, weight = layer(6, 2)
    ways = linear.cuda_ways(x, 1, 2)
    assert cuda_trial.fastest(ways, x, weight, None, *CONV2) is ways[chosen]
    assert taken == ["first", "second"] * cuda_trial.TURNS


def test_the_choice_of_a_process_that_was_first_holds(
    seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made while this process waits for its turn."""
    x, weight = layer(6, 2)
    ways = linear.cuda_ways(x, 1, 2)
    in_turn = cuda_trial.in_turn

    @contextmanager
    def waiting(lock: Path) -> Iterator[None]:
        with in_turn(lock):
            key = cuda_trial._key(ways, x, weight, (None, *CONV2))
            cuda_trial._write(key, "column by column", {})
            yield

    monkeypatch.setattr(cuda_trial, "in_turn", waiting)
    seconds += [1.0, 2.0]
    assert cuda_trial.fastest(ways, x, weight, None, *CONV2) is ways["column by column"]


def test_a_way_may_make_a_trial_of_its_own(seconds: list[float]) -> None:
    """As that over crops as pixels does; it would wait for its own process for ever."""
    x, weight = layer(6, 2)

    def convolved(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return convolution(x, weight, None, *CONV2, training=True)

    def ordinary(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return linear.cuda_ways(x, 1, 2)["grouped"](x, weight, None, *CONV2)

    ways = {"ordinary": ordinary, "with a trial": convolved}
    # The trial within comes before the outer one's second time.
    seconds += [2.0, 3.0, 1.0, 1.0]
    assert cuda_trial.fastest(ways, x, weight) is ways["with a trial"]


def test_a_prediction_does_not_depend_on_a_trial() -> None:
    x, weight = layer(6, 2)
    y = convolution(x, weight, None, 1, (2, 2), 2)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, weight, None, 1, 2, groups=2))


def test_a_trial_needs_cuda_and_leave_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not cuda_trial.possible(torch.zeros(1))

    class OnCuda:
        is_cuda = True

    assert cuda_trial.possible(OnCuda())  # type: ignore[arg-type]
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not cuda_trial.possible(OnCuda())  # type: ignore[arg-type]


def test_nothing_is_measured_while_a_graph_is_captured(
    seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = layer(6, 2)
    ways = linear.cuda_ways(x, 1, 2)
    with monkeypatch.context() as during:
        during.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert cuda_trial.fastest(ways, x, weight, None, *CONV2) is ways["grouped"]
    # Nor is it decided.
    seconds += [2.0, 1.0]
    assert cuda_trial.fastest(ways, x, weight, None, *CONV2) is ways["column by column"]


def kept_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "alexnet" / "cuda-trials").iterdir()
    return file


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 100_000,
        lambda text: "[1, 2]",
        lambda text: text.replace('"column by column"', '"by magic"'),
        lambda text: text.replace("a card", "another card"),
        lambda text: text.replace('"column by column",', "[],"),
    ],
    ids=["empty", "cut", "deep", "a list", "unknown way", "another card", "not a name"],
)
def test_a_damaged_cache_is_ignored_and_mended(
    damage: Callable[[str], str],
    seconds: list[float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, weight = layer(6, 2)
    ways = linear.cuda_ways(x, 1, 2)
    seconds += [2.0, 1.0]
    cuda_trial.fastest(ways, x, weight, None, *CONV2)
    kept_file(tmp_path).write_text(damage(kept_file(tmp_path).read_text()))
    for times in ([1.0, 2.0], []):
        new_process(monkeypatch)
        seconds += times
        assert cuda_trial.fastest(ways, x, weight, None, *CONV2) is ways["grouped"]


def test_a_cache_that_cannot_be_written_is_no_error(
    seconds: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "alexnet").write_text("a file in the place of the folder")
    x, weight = layer(6, 2)
    ways = linear.cuda_ways(x, 1, 2)
    seconds += [2.0, 1.0]
    assert cuda_trial.fastest(ways, x, weight, None, *CONV2) is ways["column by column"]
    assert "is not kept" in capsys.readouterr().err


def test_a_way_that_fails_is_not_chosen(
    seconds: list[float],
) -> None:
    x, weight = layer(6, 2)

    def fails(*arguments: object) -> torch.Tensor:
        raise RuntimeError("no kernel")

    ways = {"grouped": linear.cuda_ways(x, 1, 2)["grouped"], "other": fails}
    seconds += [2.0]
    assert cuda_trial.fastest(ways, x, weight, None, *CONV2) is ways["grouped"]
    with pytest.raises(RuntimeError, match="no kernel"):
        cuda_trial.fastest({"other": fails, "third": fails}, x, weight, None, *CONV2)


def test_check_shows_the_choices_of_this_card_alone(
    seconds: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert timed_kernels() == "none timed: training on a CUDA card does it"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", Mock(side_effect=RuntimeError("no card")))
    assert timed_kernels() == "none timed on this card yet: training on it does so"
    for channels, settings, times in ((6, CONV2, [2.0, 1.0]), (3, CONV1, [2.0, 1.0])):
        seconds += times
        x, weight = layer(channels, settings[2])
        convolution(x, weight, None, *settings, training=True)
        seconds += times
        convolution(x[:2], weight, None, *settings, training=True)
    seconds += [1.0, 2.0]
    convolution(x[:1], weight, None, *CONV1, training=True)
    # Damaged files, and trials of another card.
    (tmp_path / "alexnet" / "cuda-trials" / "damaged.json").write_text("[")
    (tmp_path / "alexnet" / "cuda-trials" / "other.json").write_text("[1]")
    expected = "5 timed on this card: 2 column by column, 1 grouped, 2 in blocks"
    assert timed_kernels() == expected
    monkeypatch.setattr(cuda_trial, "_card", lambda device: "a")
    assert timed_kernels() == "none timed on this card yet: training on it does so"
