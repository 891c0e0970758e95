"""The MPI launcher: found, and given what a laptop, a container or root needs."""
