"""The algorithms: one file each, found by their `name`. `base.Algorithm` is the contract."""
