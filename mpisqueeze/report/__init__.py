"""Reports of runs for people: terminal, page, charts and files."""
