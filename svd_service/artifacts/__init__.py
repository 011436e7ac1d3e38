"""Where images and videos live."""
