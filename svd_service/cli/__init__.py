"""The `svd-service` command line."""
