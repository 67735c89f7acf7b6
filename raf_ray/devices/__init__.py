"""What clients' devices can do, and what a round takes on them: a clock beside the real one. Numpy only."""
