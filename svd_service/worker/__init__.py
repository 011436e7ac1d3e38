"""The GPU worker: Celery's worker, its processes and the one task."""
