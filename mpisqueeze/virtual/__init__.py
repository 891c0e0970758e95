"""Virtual workers: many workers in one process, and the clock of the network that they do not have."""
