"""The level of logs below DEBUG."""

import logging
from typing import Final

TRACE: Final = 5


def _install_trace_logging() -> None:
    logging.addLevelName(TRACE, "TRACE")
