"""Container images: build them, test them, run them with Compose."""
