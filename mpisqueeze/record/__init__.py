"""The run folder: what a run leaves behind, written as it happens."""
