"""What all dialects share: authentication, request ids, errors, forms, downloads, OpenAPI."""
