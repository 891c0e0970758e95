"""Problems on PyTorch modules: what they share. `network` and `architectures` load torch, `problem` does not."""
