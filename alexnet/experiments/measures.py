"""What a claim measures of a finished run besides its errors. Each takes a run's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from alexnet.data.loader import epoch_order
from alexnet.data.store import Split
from alexnet.gallery import centre_patches, last_hidden, nearest, of_run
from alexnet.ops.arena import kept_memory

MASKS = 64
SOUGHT, ASKED = 4000, 1000
"""Training pictures among which neighbours are sought, and validation pictures whose neighbours are."""


@torch.no_grad()
def over_masks(run: Path) -> dict[str, float]:
    """Dropout's halving at test against what it stands for (section 4.2): the predictions of many masks, averaged.

    Errors with the centre patch: halved, and of the normalised geometric mean over MASKS masks.
    """
    trained, _, val = of_run(run)
    net, masked, halved = trained.net, 0, 0
    with kept_memory(trained.preprocess.device):
        for x, labels in centre_patches(trained, val, np.arange(len(val))):
            sums = sum(F.log_softmax(net(x, dropout_key=(0, mask)), 1) for mask in range(MASKS))
            assert isinstance(sums, torch.Tensor)
            masked += int((sums.argmax(1).cpu() != labels).sum())
            halved += int((net(x).argmax(1).cpu() != labels).sum())
    return {"masked_error": masked / len(val), "halved_error": halved / len(val)}


@torch.no_grad()
def alike(run: Path) -> dict[str, float]:
    """Of validation pictures' six nearest training pictures, the share of the same class: by L2 in the last hidden
    layer, and in the pixels the network sees (Fig. 4).
    """
    trained, train, val = of_run(run)

    def seen(split: Split, most: int) -> tuple[torch.Tensor, ...]:
        """The last hidden layer, the pixels and the labels of some of a split's pictures."""
        centred = centre_patches(trained, split, epoch_order(len(split), 0, 0)[:most])
        rows = [(last_hidden(trained, x), x.flatten(1).cpu(), labels) for x, labels in centred]
        return tuple(map(torch.cat, zip(*rows, strict=True)))

    *there, labels = seen(train, SOUGHT)
    *asked, own = seen(val, ASKED)
    shares = {}
    for kind, mine, others in zip(("hidden", "pixels"), asked, there, strict=True):
        same = labels[nearest(mine, others)] == own[:, None]
        shares[f"same_class_by_{kind}"] = float(same.float().mean())
    return shares
