"""Benchmarks, chaos runs, image tests and the training of nano; and the harness that tests and tools share."""
