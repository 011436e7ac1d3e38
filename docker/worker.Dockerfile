# The worker: the model and everything that makes videos. Build from the repository's root:
#   docker build -f docker/worker.Dockerfile -t svd-service-worker .
# torch's wheel brings the CUDA libraries; of the host it needs the NVIDIA driver and its container toolkit. The base is
# any image of Debian or Ubuntu with Python 3.11 or newer and its venv module as `python3`.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# The dependencies are a layer of their own, made from their list alone: a change of the code fetches no gigabytes.
# A folder of its own, too: setuptools would take the empty modules made here for the newer ones.
WORKDIR /dependencies
COPY pyproject.toml ./
# The versions are in pyproject.toml:
# hadolint ignore=DL3013
RUN mkdir svd_service \
    && echo '__version__ = "0"' > svd_service/__init__.py \
    && touch README.md LICENSE \
    && pip install --no-cache-dir '.[worker,s3,otel]'
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY svd_service svd_service
# What installs is of no use in the image; setuptools stays, torch may want it.
RUN pip install --no-cache-dir --no-deps --force-reinstall . \
    && pip uninstall --yes pip

FROM ${PYTHON_IMAGE}
# torch.compile writes C and C++ and has it compiled when the worker starts, against Python's headers. The official images
# of Python have those beside it; where the base is Debian's own Python, they are a package.
# Which versions there are is the base's business:
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libc6-dev \
    && { test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
        || apt-get install --yes --no-install-recommends libpython3-dev; } \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/*
# /data and /cache are made here so that new volumes mounted on them belong to the user, too. The number is the API
# image's: both write to the same /data.
RUN groupadd --gid 10001 svd \
    && useradd --uid 10001 --gid svd --home-dir /tmp --no-create-home --shell /usr/sbin/nologin svd \
    && install -d /app \
    && install -d -o svd -g svd /data /cache
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HF_HOME=/cache/huggingface \
    CUDA_CACHE_PATH=/cache/cuda \
    SVD_DATA_DIR=/data
WORKDIR /app
USER 10001:10001
# Asks this container's own worker through Redis. It answers while the model is still loading, too: whether a worker is
# ready for jobs is what /health and the metrics tell.
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "exec celery -A svd_service.celery_app inspect ping --timeout 5 --destination celery@$(hostname)"]
# The exec form matters: SIGTERM must reach Celery's parent, and nothing but it.
CMD ["celery", "-A", "svd_service.celery_app", "worker"]
