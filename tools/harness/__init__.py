"""A real service on loopback and stand-ins for external services, for tests, benchmarks and chaos runs."""
