"""The commands and their results for programs and notebooks, see docs/library.md."""
