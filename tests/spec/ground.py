"""Where the snippets of the guide, and of the README, run, and the one table of what is put in the place of what they print.

A snippet is run as the guide prints it, but for names of places: the guide writes to `s3://bucket/`, and a test to a server of this
machine, in each of the five schemes. `TABLE` has all of these names; what is not in it runs as printed.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import s3dlio
from tests.conformance.oracles import Buckets, FolderOracle, Oracle

BUCKETS = ("bucket", "my-bucket", "bucket-a", "bucket-b", "bucket-c")
"""All that the guide's core sections name. They are there, and empty."""

TABLE: list[tuple[str, dict[str, str]]] = [
    *(
        (
            f"s3://{bucket}/",
            {
                "s3": f"s3://{bucket}/",
                "gs": f"gs://{bucket}/",
                "az": f"az://{{account}}/{bucket}/",
                "file": f"file://{{folder}}/{bucket}/",
                "direct": f"direct://{{folder}}/{bucket}/",
            },
        )
        for bucket in BUCKETS
    ),
    (
        "gs://bucket/",
        {
            "s3": "s3://bucket/",
            "az": "az://{account}/bucket/",
            "file": "file://{folder}/bucket/",
            "direct": "direct://{folder}/bucket/",
        },
    ),
    ('_bucket("my-bucket")', {"gs": '_bucket("gs://my-bucket")', "az": '_bucket("az://{account}/my-bucket")'}),
    ("file:///", {"*": "file://{folder}/"}),
    ('"/data/', {"*": '"{folder}/data/'}),
    (" /data/", {"*": " {folder}/data/"}),
    ("'http://minio:9000'", {"*": "'{url}'"}),
    ('"http://minio:9000"', {"*": '"{url}"'}),
    ("'http://127.0.0.1:10000'", {"*": "'{url}'"}),
    ("'your_key'", {"*": "'testkey'"}),
    ("'your_secret'", {"*": "'testsecret'"}),
    ("'myaccount'", {"*": "'{account}'"}),
    ("'mykey'", {"*": "'{key}'"}),
    ("range(1000)", dict.fromkeys(("s3", "gs", "az"), "range(100)")),
    ("num=10000", dict.fromkeys(("s3", "gs", "az", "direct"), "num=20")),
    ("procs=8", dict.fromkeys(("s3", "gs", "az", "direct"), "procs=2")),
]
"""What the guide prints, and what stands there instead, by scheme (`*`: in all of them; absent: nothing else).

{folder} is this test's own folder; {url}, {account} and {key} are those of the server, where the scheme has one. Relative paths
(`local_file.bin`) are below the folder as they are, since the snippets run in it. The three numbers are smaller where a server of the
tests would take a minute for them; on `file://` they are as printed.
"""


@dataclass(frozen=True)
class Ground:
    """One scheme, its buckets, and a folder."""

    scheme: str
    folder: Path
    buckets: Buckets | None
    """None for file systems, where a bucket is a folder in the folder."""
    names: dict[str, str]
    """What the table's {url}, {account}, {key} are."""

    def map(self, printed: str) -> str:
        """Returns a text of the guide with the names of this ground."""
        table = dict(TABLE)
        # In one pass, since what stands there instead may look like what is printed.
        printed = re.sub("|".join(map(re.escape, table)), lambda found: self._instead(found[0], table[found[0]]), printed)
        assert self.scheme == "s3" or "s3://" not in printed
        return printed

    def _instead(self, name: str, by_scheme: dict[str, str]) -> str:
        wanted = by_scheme.get(self.scheme, by_scheme.get("*", name))
        for word, meaning in (("folder", str(self.folder)), *self.names.items()):
            wanted = wanted.replace(f"{{{word}}}", meaning)
        return wanted

    def run(self, snippet: str, **given: Any) -> dict[str, Any]:
        """Runs a snippet, in which what is `given` has been said before, and returns its variables.

        A snippet that awaits is run in an event loop of its own.
        """
        # Not inherited: this module's annotations from the future are none of the snippet's.
        code: CodeType = compile(self.map(snippet), "<guide>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        variables = {"s3dlio": s3dlio, **given}
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, variables))
        else:
            exec(code, variables)
        return variables

    def oracle(self, bucket: str = "bucket") -> Oracle:
        """Returns the independent way to one of the `BUCKETS`."""
        if self.buckets is None:
            return FolderOracle(self.folder / bucket, self.scheme)
        return self.buckets.create(bucket)

    def fill(self, objects: dict[str, bytes], bucket: str = "bucket") -> None:
        """Makes objects around s3dlio."""
        oracle = self.oracle(bucket)
        for key, data in objects.items():
            oracle.write(key, data)

    def objects(self, bucket: str = "bucket") -> dict[str, bytes | None]:
        """Returns all that lies in a bucket, as the oracle sees it."""
        oracle = self.oracle(bucket)
        found = oracle.keys()
        return {key: oracle.read(key) for key in found}

    def clear(self) -> None:
        """Takes away the buckets and what is in them."""
        if self.buckets is not None:
            for bucket in {*BUCKETS} & self.buckets.names():
                oracle = self.oracle(bucket)
                found = oracle.keys()
                for key in found:
                    oracle.delete(key)
                self.buckets.remove(bucket)

