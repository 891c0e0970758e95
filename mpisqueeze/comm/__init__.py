"""MPI and nothing else: the world of ranks, counted exchanges, and the buffers that MPI is handed."""
