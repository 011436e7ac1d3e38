"""Benchmarks, one module each: `calls` (a service against bare calls), `device`, `costs`, `hostile`."""
