"""A virtual cluster on one Linux machine: hosts in network namespaces, shaped links, real TCP."""
