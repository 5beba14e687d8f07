"""A real S3 server on this machine, for the time of a test."""

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def s3_server(bucket: str, log: Path) -> Iterator[dict[str, str]]:
    """The environment in which S3 clients find a server of their own with this bucket; it writes to `log`."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as server:
        try:
            while not (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)\s", log.read_text())):
                assert server.poll() is None, log.read_text()
                time.sleep(0.05)
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            direct.open(urllib.request.Request(f"{found[1]}/{bucket}", method="PUT"), timeout=20).close()
            yield {
                "AWS_ENDPOINT_URL": found[1],
                "AWS_ACCESS_KEY_ID": "of-this-test",
                "AWS_SECRET_ACCESS_KEY": "of-this-test",
                "AWS_DEFAULT_REGION": "us-east-1",
                "NO_PROXY": "127.0.0.1",
                "no_proxy": "127.0.0.1",
            }
        finally:
            server.kill()
