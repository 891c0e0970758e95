"""Residual networks for CIFAR-10 and other small images, of any size and number of channels."""

from __future__ import annotations

from mpisqueeze.problems.images import ImageProblem

_SPEC = "[,augment=on|off][,compile][,bf16], needs torch"


class ResNet18(ImageProblem):
    """ResNet-18 for 32×32 images: the stem is a 3×3 convolution without pooling. 11 173 962 parameters on CIFAR-10.

    Four stages of two blocks of 64, 128, 256 and 512 channels, with projections (He et al. 2016, arXiv 1512.03385,
    Table 1, with the stem of §4.2).
    """

    name = "resnet18"
    summary = f"ResNet-18 for small images, 11.17 M parameters: resnet18{_SPEC}"
    halvings = 3


class ResNet20(ImageProblem):
    """The CIFAR-10 network of He et al. 2016 (arXiv 1512.03385, §4.2), n = 3. 269 722 parameters on CIFAR-10.

    Three stages of three blocks of 16, 32 and 64 channels, with shortcuts that have no parameters (option A).
    """

    name = "resnet20"
    summary = f"He et al.'s ResNet-20 for CIFAR-10, 0.27 M parameters: resnet20{_SPEC}"
    halvings = 2
