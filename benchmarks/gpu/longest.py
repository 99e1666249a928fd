"""The longest kernels of a training step."""

from __future__ import annotations

import sys

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import same_training
from benchmarks.gpu.lab import Lab, as_trained
from benchmarks.gpu.steps import our_step

BATCH, TINY_BATCH = 512, 2
LONGEST = 20
STEPS, TINY_STEPS = 3, 1


def run(lab: Lab) -> None:
    """Add a row for each kernel; ends the process with status 1 if a step has none."""
    as_trained("bfloat16")
    without = []
    steps = TINY_STEPS if lab.tiny else STEPS
    on_cuda = lab.device.type == "cuda"
    kinds = {"graph": same_training.graph, "loop": same_training.loop}
    for name, kind in kinds.items():
        step = our_step(lab, TINY_BATCH if lab.tiny else BATCH, kind)
        step()
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda
        with profile(activities=activities) as profiler:
            for _ in range(steps):
                step()
            if on_cuda:
                torch.cuda.synchronize()
        attribute = "self_device_time_total" if on_cuda else "self_cpu_time_total"
        # On CUDA the operations that launch kernels are events, too.
        wanted = DeviceType.CUDA if on_cuda else DeviceType.CPU
        events = [event for event in profiler.key_averages() if event.device_type == wanted]
        if not events:
            without.append(name)
        events.sort(key=lambda event: getattr(event, attribute), reverse=True)
        for event in events[:LONGEST]:
            us = getattr(event, attribute)
            lab.row(event.key[:100], step=name, us=us / steps, launches=event.count / steps)
    if without:
        # Containers and virtual machines often withhold what CUDA's profiler (CUPTI) needs.
        sys.exit(f"the profiler saw no kernel of: {', '.join(without)}; see its warnings above")
