"""Where a rank computes: a host or one GPU, its streams, the buffers that MPI is handed, its cores."""
