"""The paper's network in plain PyTorch.

The network is frozen: speeds are compared with it, so it is never made faster.

python benchmarks/plain.py step|infer precision=float32|bfloat16 [compile=yes]
    [layout=nchw|channels_last]
"""

import sys

import torch
from torch import nn

from benchmarks.worker import serve


class PlainAlexNet(nn.Module):
    def __init__(self, classes=1000):
        super().__init__()
        self.features = nn.Sequential(
            nn.ZeroPad2d((0, 3, 0, 3)),
            nn.Conv2d(3, 96, 11, stride=4),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(96, 256, 5, padding=2, groups=2),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(9216, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def forward(self, x):
        return self.classifier(self.features(x))


def in_words(precision, device):
    """The precision by its true name: PyTorch's own switches are left as they are."""
    tf32 = device == "cuda" and precision == "float32" and torch.backends.cudnn.allow_tf32
    return f"{precision} with convolutions in TF32" if tf32 else precision


def main():
    what, *rest = sys.argv[1:]
    options = {"precision": "float32", "compile": "no", "layout": "nchw", "batch": 0} | dict(
        a.split("=") for a in rest
    )
    batch = int(options["batch"]) or (128 if what == "step" else 100)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = PlainAlexNet().to(device)
    x, labels = (
        torch.randn(batch, 3, 224, 224, device=device),
        torch.randint(0, 1000, (batch,), device=device),
    )
    if options["layout"] == "channels_last":
        net, x = (
            net.to(memory_format=torch.channels_last),
            x.contiguous(memory_format=torch.channels_last),
        )
    forward = torch.compile(net) if options["compile"] == "yes" else net
    bfloat16 = options["precision"] == "bfloat16"
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-5, momentum=0.9, weight_decay=5e-4)
    loss_function = nn.CrossEntropyLoss()

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = loss_function(forward(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def infer():
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            forward(x).softmax(1)

    net.train(what == "step")
    precision = in_words(options["precision"], device)
    note = f"torch {torch.__version__}, {precision}, {options['layout']}, batch {batch}"
    wait = torch.cuda.synchronize if device == "cuda" else None
    serve(step if what == "step" else infer, batch, "images", note, wait=wait)


if __name__ == "__main__":
    main()
