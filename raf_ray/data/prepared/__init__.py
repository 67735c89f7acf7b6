"""Shards that `raf_ray.prepare` writes: an index, clients' patches, held-out people."""

CLIENTS_PER_FILE = 64
"""A choice: some hundred files for ten thousand clients, and files that are still quick to copy."""
