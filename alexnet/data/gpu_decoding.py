"""A training split whose JPEGs are decoded by the GPU, beside the network (`--gpu-decoding`).

NVIDIA's larger cards have decoders for JPEGs, so that a machine with few cores can feed one from a
store of JPEGs; the cores only read the files. torchcodec calls the decoders. What they cannot
decode, the CPU decodes. The decoders round and interpolate colors in their own way, so that the
network trains on slightly other pixels than it is tested on, most of all at colored edges.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from alexnet.config import Config
from alexnet.data.device_feed import Copies
from alexnet.data.image import encode
from alexnet.data.loader import (
    AHEAD,
    FULL_BATCH,
    Batch,
    Indices,
    Share,
    cut,
    fill,
    result_of,
    shut_down,
    tasks_of,
)
from alexnet.data.store import Split
from alexnet.errors import ConfigError
from alexnet.terminal import print_if_read

Decode = Callable[[list[bytes]], list[torch.Tensor]]
"""Decodes JPEGs on a GPU: (3, height, width) uint8 for each. RuntimeError if it cannot."""
Arriving = tuple[Batch, torch.cuda.Event]
"""A batch that is not yet to be read, and the event after which it may be."""


def decodes_on_gpu(config: Config) -> bool:
    """Whether a GPU decodes the training images: a run may be resumed where there is none."""
    return config.gpu_decoding and not config.resident and config.device == "cuda"


def decoder(device: torch.device) -> Decode:
    """Return the decoder of a CUDA GPU, after it has decoded an image.

    Raises:
        ConfigError: torchcodec is not installed, or the GPU has no such decoder.
    """
    try:
        from torchcodec.decoders import decode_jpeg

        decode = partial(decode_jpeg, mode="RGB", device=device)
        decode([encode(np.zeros((16, 16, 3), np.uint8), "jpeg")])
    # OSError and RuntimeError: CUDA libraries that torchcodec does not find or cannot use.
    except (ImportError, OSError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            f"gpu_decoding: torchcodec cannot decode JPEGs here ({why}); install it for this "
            "PyTorch (python -m pip install torchcodec), or train without --gpu-decoding"
        ) from None
    return decode


class GpuDecodedSplit:
    """The images of a split, decoded on a GPU batch by batch.

    Attributes:
        labels: (N,) int64.
    """

    def __init__(self, split: Split, device: torch.device, readers: int) -> None:
        """Find the decoder of a GPU.

        Args:
            readers: Number of threads that read files.

        Raises:
            ConfigError: As `decoder` does.
        """
        self.labels = split.labels
        self._split, self._device, self._readers = split, device, max(1, readers)
        self._decode = decoder(device)
        self._refused = False

    def batches(
        self, order: Indices, batch: int, start: int = 0, share: Share = FULL_BATCH
    ) -> Iterator[Batch]:
        """Yield the same batches as `loader.batches`, but for the decoder's pixels.

        Raises:
            DataError, StoreLost: As `loader.batches` does.
        """
        copies = Copies(self._device)
        readers = ThreadPoolExecutor(self._readers, thread_name_prefix="read")
        # One thread: a call decodes a whole batch, and returns when the GPU has finished it.
        decoding = ThreadPoolExecutor(1, "decode", initializer=self._take_gpu())

        def decoded(
            positions: Indices, global_size: int, reads: list[Future[list[bytes]]]
        ) -> Arriving:
            index = order[positions]
            labels = torch.from_numpy(self.labels[index])
            labels = labels.pin_memory() if self._device.type == "cuda" else labels
            files = [file for read in reads for file in read.result()]
            # On the stream of the copies, so that no decoding waits for a step, and no step for it.
            with copies.stream():
                images = self._images(index, files)
            return copies.start(Batch(images, labels, index, positions, global_size, 0.0))

        waiting: deque[tuple[list[Future[list[bytes]]], Future[Arriving]]] = deque()

        def next_batch() -> Batch:
            began_s = time.perf_counter()
            reads, task = waiting.popleft()
            for read in reads:
                result_of(read, self._split)
            ready, arrived = task.result()
            copies.hand_over(ready, arrived)
            return replace(ready, waited_s=time.perf_counter() - began_s)

        try:
            for positions, global_size in cut(len(order), batch, start, share):
                reads = [
                    readers.submit(self._split.read, order[positions[part]])
                    for part in tasks_of(positions)
                ]
                task = decoding.submit(decoded, positions, global_size, reads)
                waiting.append((reads, task))
                if len(waiting) > AHEAD:
                    yield next_batch()
            while waiting:
                yield next_batch()
        finally:
            shut_down(readers, decoding)

    def _take_gpu(self) -> Callable[[], None] | None:
        """Return what gives a thread the GPU of this process: each thread begins with the first."""
        if self._device.type != "cuda":
            return None
        return partial(torch.cuda.set_device, torch.cuda.current_device())

    def _images(self, index: Indices, files: list[bytes]) -> torch.Tensor:
        """Decode images: (N, size_px, size_px, 3) uint8, on the GPU."""
        side = self._split.size_px
        # Nothing says that a GPU refuses a file that ends early.
        jpegs = [
            n
            for n, file in enumerate(files)
            if file.startswith(b"\xff\xd8") and file.endswith(b"\xff\xd9")
        ]
        # Seen as (side, side, 3), so that the batch is made of them in one copy.
        decoded = {
            n: rgb.permute(1, 2, 0)
            for n, rgb in zip(jpegs, self._by_gpu([files[n] for n in jpegs]), strict=True)
            if rgb is not None and rgb.shape == (3, side, side)
        }
        images = torch.empty((len(files), side, side, 3), dtype=torch.uint8, device=self._device)
        if files and len(decoded) == len(files):
            return torch.stack(list(decoded.values()), out=images)
        if decoded:
            images[list(decoded)] = torch.stack(list(decoded.values()))
        others = np.setdiff1d(np.arange(len(files)), list(decoded)).astype(np.int64)
        here = torch.empty((len(others), side, side, 3), dtype=torch.uint8, device="cpu")
        # A damaged image is named here: the GPU's decoder does not say which one it was.
        fill(self._split, index[others], here.numpy())
        images[others] = here.to(self._device)
        return images

    def _by_gpu(self, files: list[bytes]) -> list[torch.Tensor | None]:
        """Decode JPEGs; None for each that the GPU refuses, whatever else is in the batch."""
        try:
            return [*self._decode(files)] if files else []
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # torchcodec uses the C API of PyTorch, through which no error keeps its type. It
            # asks for the memory of the pixels there.
            if "API call failed" in str(error):
                raise torch.OutOfMemoryError(str(error)) from error
            if len(files) == 1:
                self._warn()
                return [None]
            return [rgb for file in files for rgb in self._by_gpu([file])]

    def _warn(self) -> None:
        """Say once that the GPU refuses an image: of many, training is slow."""
        if not self._refused:
            self._refused = True
            print_if_read(
                "warning: the GPU refuses JPEGs of this store, which a thread of the CPU decodes "
                "one by one; of many of them, training without --gpu-decoding is faster",
                err=True,
            )
