"""Devices that ranks compute on: host or GPU, streams, buffers for MPI, clocks, cores."""
