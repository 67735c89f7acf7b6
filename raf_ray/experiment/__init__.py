"""One federation from its request to its folder: the Python API, engines, who watches, what is drawn."""
