"""What requests say of who asks: this package, the platform, and comments about the caller.

Source: RFC 9110 §10.1.5 (User-Agent); the order of the parts is upstream's.
"""

from __future__ import annotations

import platform

from s3dlio.engine.errors import MissingExtraError

from ._version import __version__

try:
    import torch
except ImportError as error:
    raise MissingExtraError("PyTorch is not installed; pip install 's3dlio-shm[torch]'", cause=str(error)) from None


class UserAgent:
    """A prefix that is the same for all clients of a process, with comments of one.

    Args:
        comments: Shown in parentheses; empty ones are left out.

    Raises:
        ValueError: `comments` is no list.
    """

    def __init__(self, comments: list[str] | None = None) -> None:
        if comments is not None and not isinstance(comments, list):
            raise ValueError("Argument comments must be a List[str]")
        self._user_agent_prefix = self.get_default_prefix()
        self._comments = comments or []

    @staticmethod
    def get_default_prefix() -> str:
        """Returns product, operating system, Python, machine and PyTorch, with their versions."""
        system = platform.system().lower()
        return (
            f"s3dlio/{__version__} ua/2.1 os/{'macos' if system == 'darwin' else system}#{platform.release()} "
            f"lang/python#{platform.python_version()} md/arch#{platform.machine().lower()} md/pytorch#{torch.__version__}"
        )

    @property
    def prefix(self) -> str:
        """The whole text."""
        comments = "; ".join(filter(None, self._comments))
        return f"{self._user_agent_prefix} ({comments})" if comments else self._user_agent_prefix
