"""What botocore and its credential providers raise while a bucket is resolved, as errors of this package, with advice.

Rule: an error never quotes what a provider or a file said (a credential process may well print a secret); only texts that botocore
makes of names alone are passed on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import AuthenticationError, ConfigurationError, S3dlioError
from .quiet import quiet

_OF_CREDENTIALS: Final = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "UnknownCredentialError",
    "MetadataRetrievalError",
    "RefreshWithMFAUnsupportedError",
    "SSOError",
    "LoginError",
    "InfiniteLoopConfigError",
    "HTTPClientError",
    "ConnectionError",
)
"""botocore's errors (with what derives from them) about who asks; all others are about where."""
_ADVICE: Final = {
    "PartialCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY both, or neither",
    "CredentialRetrievalError": "run the credential process, or the login, by hand to see why",
    "SSOError": "run `aws sso login`",
    "LoginError": "run `aws login`",
    "ProfileNotFound": "check AWS_PROFILE and the files in ~/.aws",
    "ConfigParseError": "mend the file",
    "ParamValidationError": "no bucket can have this name",
    "HTTPClientError": "the service that gives credentials cannot be reached",
}
_QUOTABLE: Final = (
    "PartialCredentialsError",
    "ProfileNotFound",
    "ConfigParseError",
    "ConfigNotFound",
    "InvalidConfigError",
    "InvalidRegionError",
    "EndpointResolutionError",
    "UnsupportedS3ArnError",
    "UnsupportedS3ConfigurationError",
)
"""Errors whose text is made of names only. Others may quote what a provider or a file said."""


@contextmanager
def translated_errors(uri: str | None) -> Iterator[None]:
    """Maps whatever botocore and its credential providers raise to two classes of ours, with advice and without their text."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with quiet():
            yield
    except S3dlioError as error:
        error.uri = error.uri or uri
        raise
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        text = f"{error.operation_name}, which gives the credentials, was refused ({code}); check the role and its trust policy"
        raise AuthenticationError(text, uri=uri) from None
    except BotoCoreError as error:
        raise _translate(error, uri) from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError) as error:
        # What a credential process prints, or a file holds, goes through json and datetime, whose errors botocore lets pass. A RuntimeError
        # says that what came by a refresh has expired already.
        text = f"the S3 configuration or credentials cannot be read ({type(error).__name__}); check the files in ~/.aws"
        raise AuthenticationError(text, uri=uri) from None


def _translate(error: Exception, uri: str | None) -> S3dlioError:
    names = [cls.__name__ for cls in type(error).__mro__]
    provider = getattr(error, "kwargs", {}).get("provider")
    what = str(error) if names[0] in _QUOTABLE else names[0] + (f" from {provider}" if provider else "")
    advice = next((_ADVICE[name] for name in names if name in _ADVICE), None)
    is_credentials = any(name in _OF_CREDENTIALS for name in names)
    subject = "the S3 credentials are unusable" if is_credentials else "the S3 configuration is unusable"
    text = f"{subject}: {what}" + (f"; {advice}" if advice else "")
    return (AuthenticationError if is_credentials else ConfigurationError)(text, uri=uri)
