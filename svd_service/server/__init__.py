"""The HTTP server: gunicorn's threaded worker, changed so that no thread ever waits for a client to send."""
