"""An emulator that runs the CUDA sources on the CPU: g++ and `emulator.h` replace NVRTC and a GPU, NumPy CuPy."""
