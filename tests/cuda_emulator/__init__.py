"""Runs the CUDA sources on the CPU: g++ and `emulator.h` for NVRTC and a GPU, NumPy memory for CuPy's."""
