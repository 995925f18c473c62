"""The programs of examples/, run as they are against a real S3 server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.processes import REPOSITORY
from tests.support.rclone_server import RcloneServer
from tests.support.s3_endpoint import S3Endpoint

UseServer = Callable[[S3Endpoint | str], None]
pytestmark = pytest.mark.timeout(300)


def run(name: str, *arguments: str) -> str:
    """Runs an example to its end; returns what it printed."""
    command = [sys.executable, f"examples/{name}.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bucket(rclone_s3: RcloneServer) -> str:
    return rclone_s3.endpoint.new_bucket()


@pytest.fixture
def prefix(bucket: str, rclone_s3: RcloneServer, s3_env: UseServer) -> str:
    """A prefix with the pictures, which the first test that asks has written."""
    s3_env(rclone_s3.endpoint)
    if not rclone_s3.endpoint.client().list_objects_v2(Bucket=bucket).get("KeyCount"):
        run("shapes", f"s3://{bucket}/shapes/")
    return f"s3://{bucket}/shapes/"


def check_accuracy(printed: str) -> None:
    accuracy = re.search(r"accuracy ([0-9.]+)", printed)
    assert accuracy is not None, printed
    assert float(accuracy[1]) >= 0.95


def test_the_pytorch_loop_reaches_its_accuracy_and_goes_on_where_it_stopped(prefix: str) -> None:
    printed = run("train_torch", prefix)
    # 2,000 pictures less 20 batches of 32.
    assert "epoch 0: 1360 samples" in printed
    assert "epoch 1: 2000 samples" in printed
    check_accuracy(printed)


@pytest.mark.parametrize("name", ["train_jax", "train_keras"])
def test_a_training_loop_reaches_its_accuracy(name: str, prefix: str) -> None:
    check_accuracy(run(name, prefix))


def test_the_other_examples_do_what_they_say(prefix: str) -> None:
    assert "2400 objects, 1884000 bytes" in run("first_fetch", prefix)
    assert "2400 samples, 0 failed" in run("pool_loop", prefix)
    table = run("measure", prefix, "1").splitlines()
    assert [line.split()[0] for line in table] == ["procs", "1"]
    assert table[1].split()[-1] == "0"
