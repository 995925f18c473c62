"""Lists a prefix, fetches what is there and adds up the bytes.

python examples/first_fetch.py s3://bucket/prefix/
"""

from __future__ import annotations

import sys

import numpy as np

import s3dlio


def main() -> None:
    prefix = sys.argv[1]
    uris = s3dlio.list(prefix, recursive=True)
    if not uris:
        sys.exit(f"there is nothing below {prefix}")

    first = s3dlio.get(uris[0])
    print(f"{uris[0]}: {len(first)} bytes, beginning with {bytes(first[:8])!r}")

    # The objects arrive side by side and stand in input order; each is an array over shared memory, not a copy.
    views = s3dlio.get_many(uris, workers=32)
    total = sum(int(np.add.reduce(view, dtype=np.uint64)) for view in views)
    print(f"{len(views)} objects, {sum(map(len, views))} bytes, byte sum {total}")


if __name__ == "__main__":
    main()
