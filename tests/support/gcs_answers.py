"""What Google Cloud Storage and Google's token service say, for scripted servers; and a key file of a service account that nobody has."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from pathlib import Path

from awscrt import checksums

from .answers import Respond

GENERATION = "1796069152927964570"


def crc32c(data: bytes) -> str:
    """Returns the CRC32C of `data` as Google writes it."""
    return base64.b64encode(checksums.crc32c(data).to_bytes(4, "big")).decode()


def media(data: bytes, generation: str = GENERATION, headers: Mapping[str, str] | None = None) -> Respond:
    """Returns the answer to a read of a whole object. Source: objects.get with alt=media."""
    about = {
        "X-GUploader-UploadID": "SCRIPTED",
        "X-Goog-Generation": generation,
        "X-Goog-Hash": f"crc32c={crc32c(data)}",
        "ETag": '"CJqqo8vK8JgDEAE="',
    }
    return Respond(200, about | dict(headers or {}), data)


def rest_of(data: bytes, start: int, generation: str = GENERATION) -> Respond:
    """Returns the answer to a read of the bytes from `start` on."""
    found = media(data, generation, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
    return Respond(206, found.headers, data[start:])


def resource(key: str, data: bytes, **more: object) -> Respond:
    """Returns the metadata of an object, as an upload is answered."""
    about = {"name": key, "size": str(len(data)), "generation": GENERATION, "crc32c": crc32c(data), "updated": "2026-11-30T20:05:52.927Z"}
    return document(about | more)


def document(content: object, status: int = 200) -> Respond:
    """Returns an answer in JSON."""
    return Respond(status, {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(content).encode())


def gcs_error(status: int, reason: str, message: str = "scripted") -> Respond:
    """Returns a refusal of the JSON API. Source: "HTTP status and error codes for JSON"."""
    details = [{"domain": "global", "reason": reason, "message": message}]
    return document({"error": {"code": status, "message": message, "errors": details}}, status)


def token(name: str, lasts_s: int = 3600) -> Respond:
    """Returns what the token service answers. Source: "Using OAuth 2.0 for Server to Server Applications"."""
    return document({"access_token": name, "expires_in": lasts_s, "token_type": "Bearer"})


@functools.cache
def _private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    kind = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


def write_key_file(path: Path, token_url: str, **more: str) -> Path:
    """Writes the key file of a service account whose tokens come from `token_url`, and returns its path."""
    about = {
        "type": "service_account",
        "project_id": "key-project",
        "private_key_id": "1",
        "private_key": _private_key(),
        "client_email": "tester@key-project.iam.gserviceaccount.com",
        "token_uri": token_url,
    }
    path.write_text(json.dumps(about | more))
    path.chmod(0o600)
    return path
