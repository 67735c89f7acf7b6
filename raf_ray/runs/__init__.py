"""A run's folder: its files' names, what is written and read of them, what a resume goes by."""
