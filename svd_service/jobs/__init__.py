"""What a job is and may do. No Flask, no Celery, no torch."""
