"""A training split whose JPEGs are decoded by the GPU, beside the network (`--gpu-decoding`).

NVIDIA's larger cards have decoders for JPEGs, so that a machine with few cores can feed one from a
store of JPEGs; the cores only read the files. torchcodec calls the decoders. What they cannot
decode, the CPU decodes. The decoders round and interpolate colors in their own way, so that the
pixels differ from the CPU's in their last bits.
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

from alexnet.data.device_feed import Copies
from alexnet.data.image import encode
from alexnet.data.loader import FULL_BATCH, Batch, Indices, Share, cut, fill, finished, shut_down
from alexnet.data.store import Split
from alexnet.errors import ConfigError

AHEAD = 3  # batches that are read or decoded ahead of the caller

Decode = Callable[[list[bytes]], list[torch.Tensor]]
"""Decodes JPEGs on a GPU: (3, height, width) uint8 for each. RuntimeError if it cannot."""


def decoder(device: torch.device) -> Decode:
    """Return the decoder of a GPU, after it has decoded an image.

    Raises:
        ConfigError: torchcodec is not installed, or the device has no such decoder.
    """
    if device.type != "cuda":
        raise ConfigError(
            f"gpu_decoding: {device.type} decodes no JPEGs; train on CUDA or without --gpu-decoding"
        )
    try:
        from torchcodec.decoders import decode_jpeg

        decode = partial(decode_jpeg, mode="RGB", device=device)
        decode([encode(np.zeros((16, 16, 3), np.uint8), "jpeg")])
    # OSError and RuntimeError: libraries of CUDA that torchcodec does not find or cannot use.
    except (ImportError, OSError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            f"gpu_decoding: torchcodec cannot decode JPEGs here ({why}); install alexnet[gpu], or "
            "train without --gpu-decoding"
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

    def batches(
        self, order: Indices, batch: int, start: int = 0, share: Share = FULL_BATCH
    ) -> Iterator[Batch]:
        """Yield the same batches as `loader.batches`, but for the last bits of their pixels.

        Raises:
            DataError, StoreLost: As `loader.batches` does.
        """
        copies = Copies(self._device)
        readers = ThreadPoolExecutor(self._readers, thread_name_prefix="read")
        # One thread: a call decodes a whole batch, and returns when the GPU has finished it.
        decoding = ThreadPoolExecutor(1, thread_name_prefix="decode")

        def decoded(
            positions: Indices, global_size: int, files: Future[list[bytes]]
        ) -> tuple[Batch, torch.cuda.Event]:
            index = order[positions]
            labels = torch.from_numpy(self.labels[index])
            labels = labels.pin_memory() if self._device.type == "cuda" else labels
            # On the stream of the copies, so that no decoding waits for a step, and no step for it.
            with copies.stream():
                images = self._images(index, files.result())
            return copies.start(Batch(images, labels, index, positions, global_size, 0.0))

        waiting: deque[Future[tuple[Batch, torch.cuda.Event]]] = deque()
        try:
            for positions, global_size in cut(len(order), batch, start, share):
                files = readers.submit(self._split.read, order[positions])
                waiting.append(decoding.submit(decoded, positions, global_size, files))
                if len(waiting) > AHEAD:
                    yield self._next(waiting.popleft(), copies)
            while waiting:
                yield self._next(waiting.popleft(), copies)
        finally:
            shut_down(readers, decoding)

    def _next(self, task: Future[tuple[Batch, torch.cuda.Event]], copies: Copies) -> Batch:
        """Wait for a batch and hand it to the stream that computes."""
        began_s = time.perf_counter()
        batch, arrived = finished(task, self._split)
        copies.hand_over(batch, arrived)
        return replace(batch, waited_s=time.perf_counter() - began_s)

    def _images(self, index: Indices, files: list[bytes]) -> torch.Tensor:
        """Decode images: (N, size_px, size_px, 3) uint8, on the GPU."""
        shape = len(files), self._split.size_px, self._split.size_px, 3
        jpegs = [n for n, file in enumerate(files) if file.startswith(b"\xff\xd8")]
        pixels = self._by_gpu([files[n] for n in jpegs])
        if pixels is None:
            jpegs = []
        elif len(jpegs) == len(files):
            return pixels
        images = torch.empty(shape, dtype=torch.uint8, device=self._device)
        if pixels is not None:
            images[jpegs] = pixels
        others = np.setdiff1d(np.arange(len(files)), jpegs)
        here = torch.empty((len(others), *shape[1:]), dtype=torch.uint8)
        # A damaged image is named here: the GPU's decoder does not say which one it was.
        fill(self._split, index[others], here.numpy())
        images[others] = here.to(self._device)
        return images

    def _by_gpu(self, files: list[bytes]) -> torch.Tensor | None:
        """Decode JPEGs of the stored size; None if there is none, or one that the GPU cannot."""
        try:
            pixels = torch.stack(self._decode(files)) if files else None
        except RuntimeError:
            return None
        side = self._split.size_px
        if pixels is None or pixels.shape[2:] != (side, side):
            return None
        return pixels.permute(0, 2, 3, 1).contiguous()
