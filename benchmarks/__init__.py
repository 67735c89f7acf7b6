"""Speed and memory by hand: ``python -m benchmarks``. Never part of the tests."""
