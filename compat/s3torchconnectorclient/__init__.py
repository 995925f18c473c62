"""What `s3torchconnectorclient` is to `s3torchconnector`: the client below the classes, and its error."""

import logging

from ._errors import S3Exception
from ._version import __version__

LOG_TRACE = 5
"""The level below DEBUG; importing this names it, as upstream does."""
logging.addLevelName(LOG_TRACE, "TRACE")

__all__ = ["LOG_TRACE", "S3Exception", "__version__"]
