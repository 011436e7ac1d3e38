"""A real service on loopback and stand-ins for its neighbors, for tests, benchmarks and chaos runs."""
