"""The modules: a function for each problem, by its name; all randomness comes from torch's generator."""

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


class TransformerBlock(nn.Module):
    """a ← a + attention(norm(a)), a ← a + MLP(norm(a)), with 4·width hidden units (GPT-2, Radford et al. 2019, §2.3).

    Attention is written out: fused kernels on a GPU need not give the same bits again.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.projected = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden, self.output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        rows, length, width = a.shape
        mixed = self.mixed(self.norm1(a)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(2, 3) / (width // self.heads) ** 0.5
        later = scores.new_ones((length, length), dtype=torch.bool).triu(1)
        attended = scores.masked_fill(later, -torch.inf).softmax(3) @ value
        a = a + self.projected(attended.transpose(1, 2).reshape(rows, length, width))
        return a + self.output(F.gelu(self.hidden(self.norm2(a)), approximate="tanh"))


class Transformer(nn.Module):
    """(n, context) bytes → (n·context, 256) logits of the byte behind each, which depend on none that follow."""

    def __init__(self, layers: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, width), nn.Parameter(torch.empty(context, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(layers)))
        self.norm, self.logits = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.logits(self.norm(self.blocks(self.bytes(inputs) + self.places))).flatten(0, 1)


def gpt(layers: int, width: int, heads: int, context: int) -> Transformer:
    """A transformer as GPT-2 initialises it: normal with deviation 0.02, less for what is added to the stream."""
    model = Transformer(layers, width, heads, context)
    for name, parameter in model.named_parameters():
        if name.endswith(("projected.weight", "output.weight")):
            nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return model
