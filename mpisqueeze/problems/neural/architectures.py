"""The image classifiers: a function for each problem, by its name; all randomness comes from torch's generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class ResidualBlock(nn.Module):
    """relu(shortcut(a) + BN(conv₃(relu(BN(conv₃ a))))), He et al. 2016 (arXiv 1512.03385, Fig. 2).

    Args:
        inputs, outputs: numbers of channels.
        stride: stride of the first convolution.
        projection: shortcut where the shapes differ: a 1×1 convolution with batch norm (True, option B), or every
            stride-th pixel, padded by channels of zeros (False, option A, without parameters).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.missing = stride, outputs - inputs
        self.projection: nn.Module | None = None
        if projection and (stride != 1 or inputs != outputs):
            self.projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.norm1(self.conv1(a)), inplace=True)
        out = self.norm2(self.conv2(out))
        if self.projection is not None:
            a = self.projection(a)
        elif self.stride != 1 or self.missing:
            a = F.pad(a[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))
        return F.relu(out.add_(a), inplace=True)


def resnet(channels: int, classes: int, widths: tuple[int, ...], blocks: int, projection: bool) -> nn.Sequential:
    """A residual network for small images: a 3×3 stem without pooling, stages of `blocks` blocks of which the second
    and later halve the image, the mean over pixels, and a linear layer."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(ResidualBlock(inputs, width, stride, projection))
            inputs = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    return _initialised(model)


def resnet18(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    return resnet(channels, classes, (64, 128, 256, 512), 2, projection=True)


def resnet20(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    return resnet(channels, classes, (16, 32, 64), 3, projection=False)


def cnn(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    """Two 3×3 convolutions, each with relu and 2×2 max-pooling, and two linear layers."""
    pooled = (height // 4) * (width // 4)
    model = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * pooled, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip
    return _initialised(model)


def _initialised(model: nn.Sequential) -> nn.Sequential:
    """Initialise convolutions as He et al. 2015 (arXiv 1502.01852, by fan-out); torch has initialised the rest."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
