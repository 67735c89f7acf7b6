"""A model as a file that runs without raf-ray. One file a format: write it, open it."""
