"""A cell of the DARTS space trained on CIFAR-10 from scratch: network, augmentation and loop, the obvious way.

    python tests/reference/retraining.py CIFAR_FOLDER [name=value ...]         a line an epoch; names of SETTINGS

CIFAR_FOLDER holds the published binary files (data_batch_1.bin, ..., test_batch.bin). Every image is augmented by
itself, drop-path draws for each image in a loop, `updates` are those of an epoch. Nothing of nasx is used. The
recipe is DARTS' (section 3.2; quark0/darts cnn/train.py): SGD with momentum 0.9 and weight decay 3e-4, cosine to 0 each
epoch, gradient norm 5, cutout, drop-path rising by epoch, auxiliary loss 0.4.
"""

from __future__ import annotations

import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORMAL = [
    ("sep_conv_3x3", 0),
    ("sep_conv_3x3", 1),
    ("sep_conv_3x3", 0),
    ("sep_conv_3x3", 1),
    ("skip_connect", 0),
    ("sep_conv_3x3", 1),
    ("skip_connect", 0),
    ("dil_conv_3x3", 2),
]
REDUCE = [
    ("max_pool_3x3", 0),
    ("max_pool_3x3", 1),
    ("max_pool_3x3", 1),
    ("skip_connect", 2),
    ("max_pool_3x3", 0),
    ("skip_connect", 2),
    ("max_pool_3x3", 1),
    ("skip_connect", 2),
]
"""DARTS_V2 (quark0/darts cnn/genotypes.py)."""
MEAN, STD = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
SETTINGS: dict[str, Any] = {
    "seed": 0,
    "layers": 20,
    "channels": 36,
    "epochs": 600,
    "batch": 96,
    "lr": 0.025,
    "drop_path": 0.2,
    "auxiliary": 0.4,
    "cutout": 16,
    "updates": 521,
    "channels_last": 0,
}


# ----------------------------------------------------------------------------------------------------- network
def relu_conv_bn(c_in: int, c_out: int, size: int = 1, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(c_in, c_out, size, stride, size // 2, bias=False), nn.BatchNorm2d(c_out))


class Halved(nn.Module):
    """Two 1x1 convolutions of stride 2 on the even and on the odd pixels."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))


def separable(c: int, size: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(c, c, size, stride, dilation * (size // 2), dilation, groups=c, bias=False),
        nn.Conv2d(c, c, 1, bias=False),
        nn.BatchNorm2d(c),
    ]


def operation(name: str, c: int, stride: int) -> nn.Module:
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else Halved(c, c)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, 1)
    if name == "sep_conv_3x3":
        return nn.Sequential(*separable(c, 3, stride), *separable(c, 3, 1))
    assert name == "dil_conv_3x3", name
    return nn.Sequential(*separable(c, 3, stride, 2))


class Cell(nn.Module):
    def __init__(self, before: int, last: int, c: int, reduction: bool, after_reduction: bool) -> None:
        super().__init__()
        self.first = Halved(before, c) if after_reduction else relu_conv_bn(before, c)
        self.second = relu_conv_bn(last, c)
        self.edges = REDUCE if reduction else NORMAL
        self.ops = nn.ModuleList(
            [operation(name, c, 2 if reduction and source < 2 else 1) for name, source in self.edges]
        )

    def forward(self, before: Tensor, last: Tensor, drop: float) -> Tensor:
        nodes = [self.first(before), self.second(last)]
        for node in range(4):
            total = torch.zeros(())
            for k in (2 * node, 2 * node + 1):
                y = self.ops[k](nodes[self.edges[k][1]])
                if self.training and drop > 0 and not isinstance(self.ops[k], nn.Identity):
                    kept = [float(random.random() >= drop) / (1 - drop) for _ in range(len(y))]
                    y = y * torch.tensor(kept, dtype=y.dtype)[:, None, None, None]
                total = total + y
            nodes.append(total)
        return torch.cat(nodes[2:], 1)


class Net(nn.Module):
    def __init__(self, layers: int, channels: int, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels))
        self.cells, c, before, last, reduced = nn.ModuleList(), channels, 3 * channels, 3 * channels, False
        for i in range(layers):
            reduction = i in (layers // 3, 2 * layers // 3)
            c = 2 * c if reduction else c
            self.cells.append(Cell(before, last, c, reduction, reduced))
            before, last, reduced = last, 4 * c, reduction
            if i == 2 * layers // 3:
                self.head = nn.Sequential(
                    nn.ReLU(),
                    nn.AvgPool2d(5, 3, count_include_pad=False),
                    nn.Conv2d(last, 128, 1, bias=False),
                    nn.BatchNorm2d(128),
                    nn.ReLU(),
                    nn.Conv2d(128, 768, 2, bias=False),
                    nn.BatchNorm2d(768),
                    nn.ReLU(),
                    nn.Flatten(),
                    nn.Linear(768, classes),
                )
        self.head_at, self.classifier = 2 * layers // 3, nn.Linear(last, classes)

    def forward(self, x: Tensor, drop: float = 0.0) -> tuple[Tensor, Tensor | None]:
        before = last = self.stem(x)
        auxiliary = None
        for i, cell in enumerate(self.cells):
            before, last = last, cell(before, last, drop)
            if self.training and i == self.head_at:
                auxiliary = self.head(last)
        return self.classifier(last.mean((2, 3))), auxiliary


# -------------------------------------------------------------------------------------------------------- data
def read(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    records = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files])
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def normalized(image: np.ndarray) -> np.ndarray:
    return (image / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]


def augmented(image: np.ndarray, cutout: int) -> np.ndarray:
    """Random crop of the image with 4 black pixels round it, mirrored or not, normalized, a square blanked."""
    padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
    top, left = random.randrange(9), random.randrange(9)
    out = padded[:, top : top + 32, left : left + 32]
    if random.random() < 0.5:
        out = out[:, :, ::-1]
    out = normalized(out)
    y, x = random.randrange(32), random.randrange(32)
    half = cutout // 2
    out[:, max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
    return out


# -------------------------------------------------------------------------------------------------------- loop
def train(folder: Path, **settings: Any) -> float:
    """The test accuracy after the last epoch."""
    s = {**SETTINGS, **settings}
    random.seed(s["seed"])
    torch.manual_seed(s["seed"])
    x, y = read([folder / f"data_batch_{i}.bin" for i in range(1, 6)])
    test_x, test_y = read([folder / "test_batch.bin"])
    net = Net(s["layers"], s["channels"])
    layout = torch.channels_last if s["channels_last"] else torch.contiguous_format
    net.to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=s["lr"], momentum=0.9, weight_decay=3e-4)
    order = list[int]()
    for epoch in range(s["epochs"]):
        began = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = s["lr"] * (1 + math.cos(math.pi * epoch / s["epochs"])) / 2
        net.train()
        for _ in range(s["updates"]):
            if len(order) < s["batch"]:
                order += random.sample(range(len(x)), len(x))
            items, order = order[: s["batch"]], order[s["batch"] :]
            images = torch.tensor(np.stack([augmented(x[i], s["cutout"]) for i in items]), dtype=torch.float32)
            images = images.contiguous(memory_format=layout)
            labels = torch.tensor(y[items])
            logits, auxiliary = net(images, s["drop_path"] * epoch / s["epochs"])
            assert auxiliary is not None
            loss = F.cross_entropy(logits, labels) + s["auxiliary"] * F.cross_entropy(auxiliary, labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5)
            optimizer.step()
        print(f"epoch {epoch + 1} last loss {loss.item():.3f} CPU {time.process_time() - began:.0f} s", flush=True)
    net.eval()
    correct = 0
    with torch.no_grad():
        for first in range(0, len(test_x), 500):
            images = torch.tensor(normalized(test_x[first : first + 500]), dtype=torch.float32)
            correct += int((net(images)[0].argmax(1).numpy() == test_y[first : first + 500]).sum())
    print(f"test accuracy {correct / len(test_x):.4f}", flush=True)
    return correct / len(test_x)


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = dict(word.split("=") for word in sys.argv[2:])
    train(Path(sys.argv[1]), **{name: type(SETTINGS[name])(value) for name, value in given.items()})
