"""What gunicorn serves."""

from svd_service.api import create_app

application = create_app()
