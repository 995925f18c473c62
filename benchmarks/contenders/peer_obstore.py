"""obstore (Rust's object_store): `async` with tasks, `threads` with blocking calls, `map` with `ThreadPoolExecutor.map`.

The last is how most programs are written, and costs a future for each object; the second is the fastest way that we found.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from _protocol import BUCKET, PUT_BUCKET, Check, Client, Task, in_threads, main
from obstore.store import S3Store


class Obstore(Client):
    """`get(key).bytes()`: obstore's own buffer, no copy into Python bytes."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._store = S3Store(
            PUT_BUCKET if task.mode == "put" else BUCKET,
            endpoint=task.endpoint,
            region=os.environ["AWS_REGION"],
            access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
            secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def fetch(self, numbers: Sequence[int], check: Check) -> None:
        if self.task.variant == "async":
            asyncio.run(self._fetch_async(numbers, check))
        elif self.task.variant == "map":
            with ThreadPoolExecutor(self.task.in_flight) as threads:
                for _ in threads.map(lambda number: check(number, self.get(number)), numbers):
                    pass
        else:
            in_threads(numbers, self.task.in_flight, lambda number: check(number, self.get(number)))

    async def _fetch_async(self, numbers: Sequence[int], check: Check) -> None:
        todo = iter(numbers)

        async def drain() -> None:
            for number in todo:
                found = await self._store.get_async(self.task.key(number))
                check(number, await found.bytes_async())

        await asyncio.gather(*(drain() for _ in range(self.task.in_flight)))

    def get(self, number: int) -> Any:
        return self._store.get(self.task.key(number)).bytes()

    def put(self, items: Sequence[tuple[str, bytes]]) -> None:
        # In one request, as for ours: its own choice for 8 MiB is a multipart upload, which is slower here.
        if self.task.variant == "async":
            asyncio.run(self._put_async(items))
        else:
            in_threads(range(len(items)), self.task.in_flight, lambda at: self._store.put(*items[at], use_multipart=False))

    async def _put_async(self, items: Sequence[tuple[str, bytes]]) -> None:
        todo = iter(items)

        async def drain() -> None:
            for key, body in todo:
                await self._store.put_async(key, body, use_multipart=False)

        await asyncio.gather(*(drain() for _ in range(self.task.in_flight)))

    def list_keys(self) -> int:
        return sum(len(page) for page in self._store.list(f"{self.task.set_name}/", chunk_size=1000))


main(Obstore)
