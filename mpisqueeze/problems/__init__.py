"""The objectives: one file each, found by their `name`. `base.Problem` is the contract."""
