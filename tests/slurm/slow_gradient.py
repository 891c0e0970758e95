"""A problem whose gradient takes SLOW_S seconds."""

import os
import time

import numpy as np


class Slow:
    dimension = 101

    def __init__(self, rank, size, seed, xp, dtype):
        self.rank, self.dtype = rank, dtype
        self.seconds = float(os.environ.get("SLOW_S", "0.05"))

    def initial_point(self):
        return np.ones(self.dimension, self.dtype)

    def gradient(self, x, iteration):
        time.sleep(self.seconds)
        return float(x @ x) / 2, x + self.dtype.type(0.01 * self.rank)
