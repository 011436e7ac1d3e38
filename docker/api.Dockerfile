# The HTTP API, webhook delivery, Flower and the exporter: everything but the model, so no torch. Build from the
# repository's root:
#   docker build -f docker/api.Dockerfile -t svd-service-api .
# PYTHON_IMAGE is any image with Python 3.11 or newer and its venv module as `python3`; releases name it by digest
# (python:3.11-slim-bookworm@sha256:…). BUILD_IMAGE is used for
# installing alone: the same, with whatever the build needs on your network (certificates, pip's settings), none of which
# gets into the image (tools/images/build_image.sh makes one).
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG BUILD_IMAGE=${PYTHON_IMAGE}

FROM ${BUILD_IMAGE} AS build
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# The dependencies, in the versions of the lock, are a layer of their own: a change of the code downloads nothing.
WORKDIR /requirements
COPY requirements ./
RUN pip install --no-cache-dir --no-deps --require-hashes \
    -r api.txt -r c2pa.txt -r jxl.txt -r monitoring.txt -r s3.txt -r otel.txt
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY svd_service svd_service
# pip and setuptools are of no use in the image, nor are packages' tests, Pygments' lexers (nothing here highlights code),
# the small model's weights (its other files describe it), and c2pa's library for linking Rust programs (31 MB).
RUN pip install --no-cache-dir --no-deps . \
    && pip uninstall --yes pip setuptools \
    && find /opt/venv -type d \( -name tests -o -path '*/tornado/test' \) -prune -exec rm -r {} + \
    && find /opt/venv -path '*/pygments/lexers/*' -type f ! -name '__init__*' ! -name '_mapping*' ! -name 'python*' -delete \
    && find /opt/venv \( -name '*.safetensors' -o -name '*.rlib' \) -delete

FROM ${PYTHON_IMAGE}
# /data is made here so that a new volume mounted on it belongs to the user, too. The number is the worker image's.
RUN groupadd --gid 10001 svd \
    && useradd --uid 10001 --gid svd --home-dir /tmp --no-create-home --shell /usr/sbin/nologin svd \
    && install -d /app \
    && install -d -o svd -g svd /data
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SVD_BIND=0.0.0.0:8000 \
    SVD_EXPORTER_BIND=0.0.0.0:9808 \
    SVD_FLOWER_BIND=0.0.0.0:5555 \
    SVD_DATA_DIR=/data
WORKDIR /app
USER 10001:10001
EXPOSE 8000
# http.client: urllib would send the request to HTTP_PROXY where that is set.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/health'); exit(c.getresponse().status != 200)"]
CMD ["gunicorn", "-c", "python:svd_service.gunicorn", "svd_service.wsgi:application"]
