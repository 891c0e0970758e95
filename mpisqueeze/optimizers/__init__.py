"""Optimizers: a file each, found by name in the registry."""
