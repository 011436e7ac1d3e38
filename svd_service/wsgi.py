"""The WSGI application: `gunicorn -c python:svd_service.gunicorn svd_service.wsgi:application`."""

from svd_service.api import create_app

application = create_app()
