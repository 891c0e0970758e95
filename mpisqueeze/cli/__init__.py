"""The commands, their options, and where results go."""
