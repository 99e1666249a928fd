"""The network of the paper as one plain PyTorch module, for reading.

    python examples/plain_alexnet.py

Layers and parameters have the same names as those of the recipe `paper`, so that each network can
load the `state_dict` of the other. `tests/test_examples.py` checks that logits and
gradients of the two are equal.
"""

import torch
import torch.nn.functional as F
from torch import nn


class AlexNet(nn.Module):
    """Figure 2 of the paper: images (N, 3, 224, 224) to logits (N, classes)."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        # groups=2 are the two columns, one per GPU in 2012. They meet in conv3 and in fc6 to fc8.
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        for name, layer in self.named_children():  # section 5
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, 0 if name in ("conv1", "conv3", "fc8") else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, 3, 0, 3))  # 55 = (227 - 11) / 4 + 1; the printed 224 does not give 55
        x = F.max_pool2d(self.norm(F.relu(self.conv1(x))), 3, stride=2)  # 96 x 27 x 27
        x = F.max_pool2d(self.norm(F.relu(self.conv2(x))), 3, stride=2)  # 256 x 13 x 13
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = F.max_pool2d(F.relu(self.conv5(x)), 3, stride=2)  # 256 x 6 x 6
        x = self.dropout(F.relu(self.fc6(x.flatten(1))))
        x = self.dropout(F.relu(self.fc7(x)))
        return self.fc8(x)

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """Section 3.3, in each column alone. PyTorch divides alpha by 5, so it gets 5 * 1e-4."""
        columns = x.chunk(2, dim=1)
        return torch.cat([F.local_response_norm(c, 5, 5e-4, 0.75, 2.0) for c in columns], dim=1)

    def dropout(self, x: torch.Tensor) -> torch.Tensor:
        """Section 4.2: halved at test. `nn.Dropout` doubles in training instead."""
        return x * torch.rand_like(x).ge(0.5) if self.training else 0.5 * x


if __name__ == "__main__":
    net = AlexNet()
    print(net)
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters")
