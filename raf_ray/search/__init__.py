"""Ray Tune around whole federations: what is searched, by whom, and what came of it."""
