"""What runs on the GPU's side: Celery's worker, its processes and the one task."""
