"""Celery's settings, for whoever names `celeryconfig`; the values are in `svd_service/celeryconfig.py`.

The module of the package is what an installed service uses: a global `celeryconfig` would collide with other packages.
"""

from svd_service.celeryconfig import *  # noqa: F403
