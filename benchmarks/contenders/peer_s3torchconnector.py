"""s3torchconnector (AWS CRT), its client called from threads, as its datasets do from DataLoader workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from _protocol import BUCKET, Check, Client, Task, in_threads, main
from s3torchconnector._s3client import S3Client, S3ClientConfig

# The CRT sizes its connection pool by this figure (default 10): it shall not be short of connections on loopback.
_TARGET_GBPS = 100.0


class S3TorchConnector(Client):
    """`get_object(bucket, key).read()`."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        config = S3ClientConfig(force_path_style=True, throughput_target_gbps=_TARGET_GBPS)
        self._s3 = S3Client(os.environ["AWS_REGION"], endpoint=task.endpoint, s3client_config=config)

    def fetch(self, numbers: Sequence[int], check: Check) -> None:
        in_threads(numbers, self.task.in_flight, lambda number: check(number, self.get(number)))

    def get(self, number: int) -> Any:
        return self._s3.get_object(BUCKET, self.task.key(number)).read()

    def list_keys(self) -> int:
        return sum(len(page.object_info) for page in self._s3.list_objects(BUCKET, f"{self.task.set_name}/"))


main(S3TorchConnector)
