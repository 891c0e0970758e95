"""Parts that a user may bring: found by name or file, and held to their contracts."""
