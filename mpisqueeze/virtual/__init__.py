"""Workers that take the place of ranks: any number of them in a process, each in a greenlet of its own."""
