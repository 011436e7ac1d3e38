"""The native dialect: `/generate`, `/status`, `/results`, `/jobs`."""
