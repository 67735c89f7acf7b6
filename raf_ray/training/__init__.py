"""One client's work on its own people: a task that knows what a batch is, and the loop that learns from it."""
