"""Watchers of a run: progress on the terminal, MLflow. They know of events and results only."""
