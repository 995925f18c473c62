"""The programs of `_connector.py` with this package."""

from __future__ import annotations

from _connector import main

from s3dlio.compat import s3torchconnector

main(s3torchconnector)
