"""What Celery and kombu do on Redis for us, made to last: the connection, the consumer, the remote control."""
