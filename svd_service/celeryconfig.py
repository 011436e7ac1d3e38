"""Celery's own settings, by Celery's own names. Values that an operator may change come from `svd_service.config`.

docs/architecture/ explains what each of them is for, svd_service/ledger/__init__.py what the ledger does instead.
"""

import socket as _socket

from svd_service.broker.transport import register as _register_transports
from svd_service.config import settings as _settings
from svd_service.ledger.connection import broker_options as _broker_options

_s = _settings()
_register_transports()

broker_url = _s.redis_address.broker
result_backend = _s.redis_address.broker
# Certificates are checked as the ledger's connections check them.
broker_use_ssl = redis_backend_use_ssl = _s.redis_address.tls
imports = ("svd_service.worker.tasks",)
task_default_queue = _s.namespace

# Drops and counts foreign messages, and reconnects after every error of Redis.
worker_consumer = "svd_service.broker.consumer:CountingConsumer"
# A rate limit by remote control would leave jobs in a worker that the ledger considers idle.
worker_disable_rate_limits = True

# JSON only: whoever can write to Redis must not be able to make a worker unpickle.
accept_content = ["json"]
result_accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"

# One job per process at a time, acknowledged when it is over, so that a killed process' message comes back.
worker_pool = "prefork"
worker_concurrency = len(_s.worker_devices)
worker_prefetch_multiplier = 1
task_acks_late = True
task_reject_on_worker_lost = True
# The ledger has the result, if a killed process had one, so its message need not wait for it (10 s by default).
worker_lost_wait = 0.5
# A recycled process would load the model again; and none may be killed while it loads it (4 s by default).
worker_max_tasks_per_child = None
worker_proc_alive_timeout = 1800
# An attempt watches its own time at every step; this limit is for a process that no longer gets to one.
task_time_limit = _s.job_timeout + min(60, _s.job_timeout)

# What Flower and `celery inspect` look at.
task_track_started = True
worker_send_task_events = True
result_expires = int(_s.result_ttl)
result_extended = True

# A host that disappears without closing connections (a pulled cable) is detected after ten seconds. The kernel's
# default is a quarter of an hour with data in flight, and hours without. Not every system has all of these options.
_vanished = {
    getattr(_socket, _name): _value
    for _name, _value in {
        "TCP_KEEPIDLE": 5,  # seconds
        "TCP_KEEPINTVL": 2,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 10_000,  # milliseconds
    }.items()
    if hasattr(_socket, _name)
}

# No socket waits without limit. A message that stays unacknowledged for longer than the longest job is delivered again;
# the ledger does not wait for that, and rejects the second claim of a job that is still held.
_sentinels = _broker_options(_s, timeout=3)
broker_transport_options = {
    **_sentinels,
    "visibility_timeout": int(_s.job_timeout) + 600,
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "socket_keepalive_options": _vanished,
    "health_check_interval": 25,
}
result_backend_transport_options = _sentinels
redis_socket_timeout = 5
redis_socket_connect_timeout = 3
redis_socket_keepalive = True
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
result_backend_always_retry = True
result_backend_max_retries = 30
worker_cancel_long_running_tasks_on_connection_loss = False
