"""`import cupy` is the emulated one, in a program that has this folder on its PYTHONPATH.

Kernels are compiled to the folder $CUDA_EMULATOR, or to a temporary one.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from cuda_emulator.fake_cupy import fake_cupy

sys.modules[__name__] = fake_cupy(Path(os.environ.get("CUDA_EMULATOR") or tempfile.mkdtemp()))
