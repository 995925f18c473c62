"""The programs of `_connector.py` with s3torchconnector."""

from __future__ import annotations

import s3torchconnector
from _connector import main

main(s3torchconnector)
