"""PyPI's s3dlio (Rust): `get_many` in calls of a bounded number of bytes, `get` (with `threads` in many), `list`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from _protocol import PUT_BUCKET, Check, Client, chunks, in_threads, main

import s3dlio

# `get_many` waits for its last object, so calls are as large as memory comfortably allows.
_CALL_BYTES = 512 << 20
_CALL_OBJECTS = 500


class S3dlio(Client):
    """`get_many(uris, max_in_flight=...)`; its results carry their URI, since their order is not promised."""

    def fetch(self, numbers: Sequence[int], check: Check) -> None:
        if self.task.variant == "threads":
            in_threads(numbers, self.task.in_flight, lambda number: check(number, self.get(number)))
        else:
            self._fetch_many(numbers, check)

    def _fetch_many(self, numbers: Sequence[int], check: Check) -> None:
        number_of = {self.task.uri(number): number for number in numbers}
        for call in chunks(numbers, min(_CALL_OBJECTS, _CALL_BYTES // self.task.size)):
            uris = [self.task.uri(number) for number in call]
            for uri, body in s3dlio.get_many(uris, max_in_flight=self.task.in_flight):
                check(number_of[uri], body)

    def get(self, number: int) -> Any:
        return s3dlio.get(self.task.uri(number))

    def put(self, items: Sequence[tuple[str, bytes]]) -> None:
        if self.task.variant == "threads":
            uris = [f"s3://{PUT_BUCKET}/{key}" for key, _ in items]
            in_threads(range(len(items)), self.task.in_flight, lambda at: s3dlio.put_bytes(uris[at], items[at][1]))
        else:
            s3dlio.put_many([(f"s3://{PUT_BUCKET}/{key}", body) for key, body in items], max_in_flight=self.task.in_flight)

    def list_keys(self) -> int:
        return len(s3dlio.list(f"s3://bench/{self.task.set_name}/", recursive=True))


main(S3dlio)
