"""`mpisqueeze bench`: how fast kernels and exchanges are, and whether what they compute is right."""
