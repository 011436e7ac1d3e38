"""Training of the nano model."""
