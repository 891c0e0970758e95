"""The claims of the talks, each with the runs that it stands or falls by."""
