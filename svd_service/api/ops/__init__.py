"""Health, metrics, documentation and the web page."""
