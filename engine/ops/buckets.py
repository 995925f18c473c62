"""Buckets and directories: create_bucket, delete_bucket, list_containers, mkdir."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigurationError, InvalidUriError
from ..pool.inline import inline_fetcher
from ..stores import registry
from ..stores.base import Operation, run
from ..text import clean
from ..types import Container
from ..uri import FILE_SCHEMES, as_directory, parse_uri
from .perform import Place, perform


def create_bucket(name: str | None = None, *, bucket_name: str | None = None) -> None:
    """Makes a bucket or container; one of ours that is there already is no error.

    Args:
        name: The name of an S3 bucket, or a URI: `s3://bucket`, `gs://bucket`, `az://account/container`.
        bucket_name: Another name for `name`.

    Raises:
        ConfigurationError: The URI names an object, or nothing is named, or two are.
        AlreadyExistsError: It is somebody else's.
        UnsupportedError: File systems have none.
        PermissionDeniedError, S3dlioError: As the store says.
    """
    perform(make_bucket, bucket_uri(name, bucket_name))


def delete_bucket(name: str | None = None, *, bucket_name: str | None = None) -> None:
    """Deletes a bucket or container, which must be empty; `delete(uri, recursive=True)` empties it.

    Args:
        name: As for `create_bucket`.
        bucket_name: Another name for `name`.

    Raises:
        NotFoundError: There is none.
        RequestRejectedError: It is not empty.
        ConfigurationError, UnsupportedError, PermissionDeniedError, S3dlioError: As `create_bucket`.
    """
    perform(remove_bucket, bucket_uri(name, bucket_name))


def list_containers(uri: str) -> list[dict[str, Any]]:
    """Returns the buckets or containers of an account, sorted by name, each as a dict of `name`, `uri` and `creation_date` (text or None).

    Args:
        uri: `s3://`, `gs://`, `az://account/`, or any URI in that account.

    Raises:
        UnsupportedError: The scheme has no such list.
        ConfigurationError, PermissionDeniedError, S3dlioError: As the store says.
    """
    return as_dicts(run(containers_of(uri), inline_fetcher().run))


def containers_of(uri: str) -> Operation[list[Container]]:
    """Returns the operation of `list_containers`; the call itself may take as long as credentials do.

    Raises:
        InvalidUriError: It has no scheme.
        UnsupportedError, ConfigurationError, S3dlioError: As `list_containers`.
    """
    if "://" not in str(uri):
        raise InvalidUriError(f"{clean(str(uri))!r} has no scheme; write s3://, gs:// or az://account/")
    return registry.list_containers(uri)


def as_dicts(found: list[Container]) -> list[dict[str, Any]]:
    """Returns containers as `list_containers` shows them."""
    return [
        {"name": one.name, "uri": one.uri, "creation_date": one.creation_date} for one in sorted(found, key=lambda one: one.name)
    ]


def mkdir(uri: str) -> None:
    """Makes a directory with those above it; on object stores, an empty marker object whose key ends in `/`. One that is there is no error.

    Raises:
        ConfigurationError: The URI names a bucket.
        AlreadyExistsError: A file has that name.
        PermissionDeniedError, S3dlioError: As the store says.
    """
    perform(make_prefix, uri)


def bucket_uri(name: str | None, bucket_name: str | None) -> str:
    """Returns the URI of a bucket that is named by it, or, on S3, by its bare name; by one of two arguments.

    Raises:
        ConfigurationError: It names an object, or nothing is named, or two are.
    """
    given = {one for one in (name, bucket_name) if one is not None}
    if len(given) != 1:
        raise ConfigurationError("name and bucket_name are two names of one thing; give one")
    (name,) = given
    uri = name if "://" in name else f"s3://{name}"
    parts = parse_uri(uri)
    if parts.key and parts.scheme not in FILE_SCHEMES:
        raise ConfigurationError(f"this is no bucket but an object: {parts.key!r} stands behind its name", uri=uri)
    return uri


def make_bucket(place: Place) -> Operation[None]:
    """The operation of `create_bucket`."""
    return place.store.create_bucket()


def remove_bucket(place: Place) -> Operation[None]:
    """The operation of `delete_bucket`."""
    return place.store.delete_bucket()


def make_prefix(place: Place) -> Operation[None]:
    """The operation of `mkdir`.

    Raises:
        ConfigurationError: As `mkdir`.
    """
    if not place.key:
        raise ConfigurationError("this is a bucket; create_bucket makes buckets", uri=place.uri)
    return place.store.make_prefix(as_directory(place.key))
