"""Base of the problems on PyTorch modules. `network`, `parts` and `architectures` load torch, `problem` does not."""
