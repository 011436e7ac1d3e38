"""How settings are read: the environment, `.env` and files of secrets, and the checks of their values.

The settings themselves, with their defaults, are in `svd_service/config.py`.
"""


class ConfigurationError(Exception):
    """A setting has an invalid value. The message names the environment variable."""
