"""A Ray cluster: joining it, who gets which share of it, its names, its jobs, what it shows."""
