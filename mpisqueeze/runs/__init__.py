"""A run from its settings to its last iteration, and several of them one after the other."""
