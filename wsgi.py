"""The WSGI application in a checkout: `gunicorn -c python:svd_service.gunicorn wsgi:application`."""

from svd_service.wsgi import application

__all__ = ["application"]
