"""The objectives: one file each. `base.Problem` is the contract."""
