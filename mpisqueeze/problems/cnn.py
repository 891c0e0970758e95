"""A small convolutional network."""

from __future__ import annotations

from mpisqueeze.problems.images import ImageProblem


class CNN(ImageProblem):
    """Two convolutions of 16 and 32 channels with max-pooling, and 64 hidden units; no batch norm.

    105 866 parameters on MNIST, 136 874 on CIFAR-10.
    """

    name = "cnn"
    summary = "two convolutions and two linear layers: cnn[,augment=on|off][,compile][,bf16], needs torch"
    halvings = 2
    batch_norm = False
