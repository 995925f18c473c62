"""What `s3torchconnectorclient` is to `s3torchconnector`: the client below the classes, and its error."""

from ._errors import S3Exception
from ._logger_patch import TRACE as LOG_TRACE
from ._logger_patch import _install_trace_logging
from ._version import __version__

_install_trace_logging()

__all__ = ["LOG_TRACE", "S3Exception", "__version__"]
