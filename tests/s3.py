"""An S3 server on this machine, with a prepared store in a bucket."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.processes import free_port, until

BUCKET = "s3://pictures/shapes"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Server:
    """An S3 server, and the environment variables by which programs find it."""

    def __init__(self, store: Path) -> None:
        self._port = free_port()
        self._store = store
        self.environment = KEYS | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "ALEXNET_CACHE_GB": "0",
        }
        self.begin()

    def begin(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-p", str(self._port)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            until(self._answers, "the S3 server answered", self.process)
            self._fill()
        except BaseException:
            self.end()
            raise

    def _fill(self) -> None:
        """Put the store into a bucket."""
        # Imported here: tests that need no S3 run on machines without it.
        import boto3

        endpoint = self.environment["AWS_ENDPOINT_URL"]
        user, secret, region = KEYS.values()
        client = boto3.client(
            "s3",
            region,
            endpoint_url=endpoint,
            aws_access_key_id=user,
            aws_secret_access_key=secret,
        )
        client.create_bucket(Bucket="pictures")
        for path in self._store.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "pictures", f"shapes/{path.relative_to(self._store)}")
        client.close()

    def _answers(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self._port)) == 0

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
