"""boto3, from threads: one client, as its documentation asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import boto3
from _protocol import BUCKET, PUT_BUCKET, Check, Client, Task, in_threads, main
from botocore.config import Config


class Boto3(Client):
    """`get_object(...)["Body"].read()`."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        config = Config(max_pool_connections=max(10, task.in_flight), s3={"addressing_style": "path"})
        self._s3 = boto3.client("s3", endpoint_url=task.endpoint, config=config)

    def fetch(self, numbers: Sequence[int], check: Check) -> None:
        in_threads(numbers, self.task.in_flight, lambda number: check(number, self.get(number)))

    def get(self, number: int) -> Any:
        return self._s3.get_object(Bucket=BUCKET, Key=self.task.key(number))["Body"].read()

    def put(self, items: Sequence[tuple[str, bytes]]) -> None:
        in_threads(range(len(items)), self.task.in_flight, lambda at: self._put_one(*items[at]))

    def _put_one(self, key: str, body: bytes) -> None:
        self._s3.put_object(Bucket=PUT_BUCKET, Key=key, Body=body)

    def list_keys(self) -> int:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.task.set_name}/")
        return sum(1 for page in pages for _ in page["Contents"])


main(Boto3)
