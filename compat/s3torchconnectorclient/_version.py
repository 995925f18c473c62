"""The version of this package, where users of `s3torchconnectorclient` look for it."""

from s3dlio import __version__

__all__ = ["__version__"]
