"""Shards that `raf_ray.prepare` writes: an index, clients' patches, held-out people."""
