"""Fetch a model's weights ahead of a worker's first start: what `svd-service models pull` runs as a process."""

import logging
import os
import sys

from svd_service.config import ConfigurationError, Settings
from svd_service.environment.sources import hub_variables


def main(arguments: list[str]) -> int:
    """Fetch the weights of the model that `arguments` or the settings name; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # The hub's client reads these when it is imported.
    os.environ.update(hub_variables())  # noqa: TID251
    from svd_service.jobs.model import Model  # noqa: PLC0415
    from svd_service.video.weights import ModelLoadError, find  # noqa: PLC0415

    try:
        settings = Settings.from_mapping({"SVD_MODEL": arguments[0]}) if arguments else Settings.load()
        weights = find(Model.of(settings), half=True)
    except (ConfigurationError, ModelLoadError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    print(weights.folder)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
