"""Other simulators on the same people: each a program for an environment of its own."""
