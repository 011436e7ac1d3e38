# The worker: the model and everything that makes videos. Build from the repository's root:
#   docker build -f docker/worker.Dockerfile -t svd-service-worker .
# torch's wheel brings the CUDA libraries; the host needs the NVIDIA driver and its container toolkit. For a CPU:
#   --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu --build-arg COMPILER=
# PYTHON_IMAGE is any image of Debian or Ubuntu with Python 3.11 or newer and its venv module as `python3`; releases name
# it by digest (python:3.11-slim-bookworm@sha256:…). BUILD_IMAGE is used for installing alone: the same, with whatever the build needs on your network (certificates, pip's settings), none
# of which gets into the image (tools/images/build_image.sh makes one).
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG BUILD_IMAGE=${PYTHON_IMAGE}

FROM ${BUILD_IMAGE} AS build
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# The index of another build of torch. pip prefers that build (2.13.0+cpu) to PyPI's (2.13.0).
ARG TORCH_INDEX_URL=
# The dependencies, in the versions of the lock, are a layer of their own: a change of the code downloads no gigabytes.
# torch has no hash there, since its build depends on the device.
WORKDIR /requirements
COPY requirements ./
RUN pip install --no-cache-dir --no-deps --require-hashes -r worker.txt -r c2pa.txt -r s3.txt -r otel.txt \
    && pip install --no-cache-dir --constraint torch.txt \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} torch
# torch.compile needs a C++ compiler and torch's headers when the worker runs. It is on by default on GPUs alone.
# 180 MB are tests of the packages and programs for torch's own development, 31 MB c2pa's library for linking Rust programs.
ARG COMPILER=yes
RUN site=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && find "$site" -type d -name tests -prune -exec rm -r {} + \
    && find "$site" -name '*.rlib' -delete \
    && rm -rf "$site/torch/test" \
    && find "$site/torch/bin" -type f ! -name torch_shm_manager -delete \
    && { [ -n "$COMPILER" ] || { \
        rm -r "$site/torch/include" && find "$site" -type d -name __pycache__ -prune -exec rm -r {} +; }; }
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY svd_service svd_service
# pip is of no use in the image; setuptools stays, torch may want it. Without a compiler the image has the bytecode of what
# a worker imports alone, and not of all models of transformers and diffusers (170 MB).
RUN pip install --no-cache-dir --no-deps . \
    && { [ -n "$COMPILER" ] || python -c 'import svd_service.worker.tasks, svd_service.video.loader, celery.bin.worker'; } \
    && pip uninstall --yes pip

FROM ${PYTHON_IMAGE}
ARG COMPILER=yes
# The official images of Python have Python's headers; where the base is Debian's own Python, they are a package.
# The base decides which versions there are:
# hadolint ignore=DL3008
RUN [ -z "$COMPILER" ] || { \
        apt-get update \
        && apt-get install --yes --no-install-recommends g++ libc6-dev \
        && { test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
            || apt-get install --yes --no-install-recommends libpython3-dev; } \
        && apt-get clean \
        && rm -rf /var/lib/apt/lists/*; }
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
