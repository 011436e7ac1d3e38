"""How every process of ours logs: one line per event, plain or as JSON."""

import json
import logging
import sys
import time

from svd_service.config import Settings


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, process id, message, and the exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        event = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


def configure(settings: Settings) -> None:
    """Send this process' log to standard error, in the form that the settings name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter()
        if settings.log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    )
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
