"""Images: build them, try them, run them with Compose."""
