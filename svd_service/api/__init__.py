"""The web process: routes and shapes over the use cases of `svd_service.jobs`. It never imports torch."""

import logging

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from svd_service import bootstrap
from svd_service.api.admin import keys as admin_keys
from svd_service.api.admin import overview
from svd_service.api.admin import routes as admin
from svd_service.api.events.hub import Hub
from svd_service.api.http import auth, errors, origins
from svd_service.api.http.json import MsgspecJSON
from svd_service.api.http.multipart import Request
from svd_service.api.http.paths import RootPath
from svd_service.api.http.request_ids import RequestIdMiddleware
from svd_service.api.native import access, generate, groups, usage, verify
from svd_service.api.native import routes as native
from svd_service.api.openai import errors as openai_errors
from svd_service.api.openai import routes as openai
from svd_service.api.ops import docs, health, operator_page, page
from svd_service.api.stability import errors as stability_errors
from svd_service.api.stability import routes as stability
from svd_service.config import Settings, settings
from svd_service.presentation import JobView
from svd_service.telemetry import logs, tracing

logger = logging.getLogger(__name__)

#: Bytes beside the image: the other fields of a form and its boundaries.
FORM_OVERHEAD = 500_000


def create_app(configuration: Settings | None = None) -> Flask:
    """The WSGI application for `configuration`, by default that of the environment and `.env`.

    Redis need not run yet: `/health` is `unavailable` until it does.

    Raises:
        ConfigurationError: a setting cannot be used.
    """
    configuration = configuration or settings()
    logs.configure(configuration)
    tracing.configure(configuration, "svd-api")
    app = Flask("svd_service", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = configuration.max_upload_bytes + FORM_OVERHEAD
    app.request_class = Request
    app.json = MsgspecJSON(app)
    # A redirect of Werkzeug's to "the right" path would name the host that the client made up.
    app.url_map.merge_slashes = app.url_map.redirect_defaults = False
    if configuration.root_path or configuration.trusted_proxies:
        app.wsgi_app = RootPath(app.wsgi_app, configuration.root_path)  # type: ignore[method-assign]
    if hops := configuration.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_prefix=hops)  # type: ignore[method-assign]
    app.wsgi_app = RequestIdMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    wired = bootstrap.web(configuration)
    app.extensions["web"] = wired
    root = configuration.root_path
    app.extensions["events"] = Hub(
        wired.jobs.queries, configuration, lambda job: app.json.dumps(JobView.of(job, root)).encode()
    )
    errors.install(
        app, {"v1": openai_errors.shape, "v2beta": stability_errors.shape, "v2alpha": stability_errors.shape}
    )
    health.install(app)  # first: its clock is to run for what is turned away, too
    auth.install(app, wired.keyring, origins.install(app, configuration), configuration)
    for dialect in (
        native,
        generate,
        groups,
        access,
        usage,
        verify,
        admin,
        admin_keys,
        overview,
        openai,
        stability,
    ):
        app.register_blueprint(dialect.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(page.blueprint)
    app.register_blueprint(operator_page.blueprint)
    return app
