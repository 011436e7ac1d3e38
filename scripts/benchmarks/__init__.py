"""What `scripts/benchmark.py` measures, one room each: `calls` (a service against bare calls), `device`, `costs`."""
