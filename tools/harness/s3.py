"""A real S3 server for tests: moto, as a process (`python -m tools.harness.s3 ADDRESS PORT`).

By default moto accepts every signature; a `Server` verifies all but those of presigned URLs. Its data is lost when it
exits.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

BUCKET = "svd-test"
REGION = "eu-central-1"
ACCESS_KEY_ID = "test-key"
SECRET_ACCESS_KEY = "test-secret"


class Server:
    """A server on loopback with the bucket `BUCKET` and one user, whose requests must be signed."""

    def __init__(self, port: int, log: Path) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command("127.0.0.1", port),
                # The four requests that create bucket, user, policy and key need no signature.
                env=environment() | {"INITIAL_NO_AUTH_ACTION_COUNT": "4"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        make_bucket(self.endpoint, BUCKET, self._process)
        self._access_key_id, self._secret_access_key = _make_user(self.endpoint)

    def variables(self, place: str) -> dict[str, str]:
        """Return the environment variables for `place` (`s3://…`) on this server."""
        key = {"SVD_S3_ACCESS_KEY_ID": self._access_key_id, "SVD_S3_SECRET_ACCESS_KEY": self._secret_access_key}
        return variables(self.endpoint, place) | key

    def stop(self) -> None:
        """Stop the server."""
        self._process.terminate()
        self._process.wait(timeout=10)


def _make_user(endpoint: str) -> tuple[str, str]:
    """Create a user with all permissions on buckets; return its access key id and secret."""
    import boto3  # a dependency of moto
    from botocore.config import Config

    iam = boto3.client(
        "iam",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
        config=Config(proxies={}),
    )
    anything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.create_user(UserName="user")
    iam.put_user_policy(UserName="user", PolicyName="anything", PolicyDocument=json.dumps(anything))
    key = iam.create_access_key(UserName="user")["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def command(address: str, port: int) -> tuple[str, ...]:
    """Return the command of the server's process."""
    return (sys.executable, "-m", "tools.harness.s3", address, str(port))


def environment() -> dict[str, str]:
    """Return the environment of the server's process."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": str(Path(__file__).parents[2])}


def make_bucket(endpoint: str, name: str, server: "subprocess.Popen[bytes]") -> None:
    """Create a bucket as soon as `server` answers, by an unsigned request."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    deadline = time.monotonic() + 60
    while True:
        try:
            opener.open(request, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline or server.poll() is not None:
                raise
            time.sleep(0.1)


def variables(endpoint: str, place: str) -> dict[str, str]:
    """Return the environment variables for `place` (`s3://…`) on the server at `endpoint`."""
    return {
        "SVD_ARTIFACTS": place,
        "SVD_S3_ENDPOINT": endpoint,
        "SVD_S3_REGION": REGION,
        "SVD_S3_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "SVD_S3_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
    }


def serve(address: str, port: int) -> None:
    """Serve until the process is terminated."""
    from moto import settings
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    moto = DomainDispatcherApplication(create_backend_app)
    # Moto cannot handle two concurrent replacements of one object: one closes the other's buffer.
    lock, strict = threading.Lock(), settings.INITIAL_NO_AUTH_ACTION_COUNT

    def one_at_a_time(environ: Any, start_response: Any) -> Any:
        with lock:
            # Moto would look for the signature of a presigned URL in the headers.
            presigned = "X-Amz-Signature=" in environ["QUERY_STRING"]
            settings.INITIAL_NO_AUTH_ACTION_COUNT = math.inf if presigned else strict
            return moto(environ, start_response)

    run_simple(address, port, one_at_a_time, threaded=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    serve(**vars(parser.parse_args()))
