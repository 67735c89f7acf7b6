"""Results for eyes: plots and tables. Knows of results only."""
