"""The one reader of the environment and of `configs/`.

A setting is looked up as: keyword of the call > `s3dlio.configure(...)` > `S3DLIO_<NAME>` > the variable that the other library of this
name has for it (`variables.py`) > the file in `S3DLIO_CONFIG` > `configs/default.toml`. The result is one frozen `Settings`; whoever
holds one sees no later change. A wrong value or an unknown name in a file or in `configure` raises; an unknown `S3DLIO_*` variable
warns, since another program may own it.
"""

from __future__ import annotations

import binascii
import difflib
import os
import re
import sys
import threading
import tomllib
import warnings
from typing import Any

import msgspec

import s3dlio.configs

from .errors import ConfigurationError
from .variables import ALIASES, why_without_meaning

_PREFIX = "S3DLIO_"
_CUSTOMER_KEY = "S3DLIO_SSE_CUSTOMER_KEY"
_OWN_VARIABLES = frozenset({"S3DLIO_CONFIG", _CUSTOMER_KEY})
_UNITS = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, resolved. Meaning, unit and default of each stand in `configs/default.toml`."""

    memory_bytes: int
    """0 stands for "auto"."""
    poison_freed: bool
    check_slots: bool
    procs: int
    jobs: int
    worker_restarts_per_minute: int
    worker_silence_s: float
    worker_start_s: float
    part_bytes: int
    split_above_bytes: int
    put_part_bytes: int
    multipart_above_bytes: int
    connect_timeout_s: float
    first_byte_timeout_s: float
    silence_timeout_s: float
    deadline_s: float
    max_attempts: int
    backoff_initial_s: float
    backoff_max_s: float
    retry_after_max_s: float
    idle_connection_s: float
    min_throughput_bytes_s: int
    min_throughput_s: float
    verify_checksums: bool
    verify_writes: bool
    fast_lane: bool
    s3_requester_pays: bool
    size_cache_s: float
    max_decoded_bytes: int


_NAMES = Settings.__struct_fields__
_MINIMUM = {
    "memory_bytes": 0,
    "procs": 0,
    "jobs": 1,
    "max_attempts": 1,
    "max_decoded_bytes": 1,
    "part_bytes": 65536,
    "put_part_bytes": 65536,
    "size_cache_s": 0,
    "split_above_bytes": 65536,
}
_lock = threading.Lock()
_configured: dict[str, Any] = {}
_current: Settings | None = None


def settings(**overrides: Any) -> Settings:
    """Returns the settings in force, with the `overrides` that are not None put on top.

    Raises:
        ConfigurationError: A value has the wrong type or makes no sense, or a name is unknown.
    """
    global _current
    found = _current
    if found is None:
        with _lock:
            if _current is None:
                _current = _resolve(_layers())
            found = _current
    given = {name: value for name, value in overrides.items() if value is not None} if overrides else None
    if not given:
        return found
    return _resolve([("argument", msgspec.structs.asdict(found)), ("argument", given)])


def configure(**values: Any) -> None:
    """Sets process-wide settings, above the environment and below the keywords of a call. None takes a setting back.

    What is already running (a pool, an open store) keeps the settings it began with.

    Raises:
        ConfigurationError: Unknown name, or a value of the wrong type.
    """
    global _configured, _current
    with _lock:
        merged = {name: value for name, value in {**_configured, **values}.items() if value is not None}
        _current = _resolve([*_layers()[:-1], ("configure", dict.fromkeys(values)), ("configure", merged)])
        _configured = merged


def parse_size(text: int | str) -> int:
    """Returns a number of bytes: 4096, "4096", "64KiB", "1.5GB".

    Raises:
        ConfigurationError: Not a size.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text >= 0:
            return text
    elif isinstance(text, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
        unit = _UNITS.get(match[2].lower()) if match else None
        if match and unit:
            return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit
    raise ConfigurationError(f"{text!r} is not a size; write a number of bytes, or text as 256MiB")


def sse_customer_key() -> str | None:
    """Returns the key of yours that S3 encrypts objects with (SSE-C): 32 bytes in base64, from `S3DLIO_SSE_CUSTOMER_KEY`; None for none.

    It is no setting, since settings are shown.

    Raises:
        ConfigurationError: It is no such key. The text does not show it.
    """
    text = os.environ.get(_CUSTOMER_KEY)
    if not text:
        return None
    try:
        is_good = len(binascii.a2b_base64(text.encode(), strict_mode=True)) == 32
    except (binascii.Error, UnicodeEncodeError):
        is_good = False
    if not is_good:
        raise ConfigurationError(f"{_CUSTOMER_KEY} must be a key of 32 bytes in base64")
    return text


def child_environment() -> dict[str, str]:
    """Returns the environment for a worker process: what Python and the C library need, and nothing that holds a credential.

    A worker gets its settings and its stores' credentials by message, so neither stands in `/proc/<pid>/environ` of a child.
    """
    keep = ("PATH", "LANG", "TZ", "TMPDIR", "HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR")
    return {k: v for k, v in os.environ.items() if k in keep or k.startswith(("LC_", "PYTHON", "MALLOC_"))}


def environment(*names: str) -> dict[str, str]:
    """Returns those of the named variables that are set and not empty. For what launchers of jobs say, which is no setting of ours."""
    return {name: value for name in names if (value := os.environ.get(name))}


def _layers() -> list[tuple[str, dict[str, Any]]]:
    folder = os.path.dirname(s3dlio.configs.__file__)
    layers = [("configs/default.toml", _read_toml(os.path.join(folder, "default.toml")))]
    if path := os.environ.get("S3DLIO_CONFIG"):
        layers.append((path, _read_toml(path)))
    layers += _from_environment()
    layers.append(("configure", _configured))
    return layers


def _read_toml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"the settings file cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error


def _from_environment() -> list[tuple[str, dict[str, Any]]]:
    """Returns what the environment says: first in the words of the other library of this name, then in ours, which stand above."""
    own: dict[str, Any] = {}
    aliases: dict[str, dict[str, Any]] = {}
    for variable, value in os.environ.items():
        if not variable.startswith(_PREFIX) or variable in _OWN_VARIABLES:
            continue
        name = variable[len(_PREFIX) :].lower()
        if name in _NAMES:
            own[name] = value
        elif variable in ALIASES:
            aliases[variable] = _from_alias(variable, value)
        elif (reason := why_without_meaning(variable)) is not None:
            warnings.warn(f"{variable} changes nothing here: {reason}", stacklevel=4)
        else:
            warnings.warn(f"{variable} is no setting of s3dlio{_suggest(name)}", stacklevel=4)
    return [*((variable, aliases[variable]) for variable in ALIASES if variable in aliases), ("environment", own)]


def _from_alias(variable: str, text: str) -> dict[str, Any]:
    alias = ALIASES[variable]
    try:
        return {alias.setting: alias.convert(text)}
    except ValueError:
        raise ConfigurationError(f"{variable}: {text!r} is no number") from None


def _suggest(name: str) -> str:
    close = difflib.get_close_matches(name, _NAMES, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _resolve(layers: list[tuple[str, dict[str, Any]]]) -> Settings:
    merged: dict[str, Any] = {}
    for source, values in layers:
        for name, value in values.items():
            if name not in _NAMES:
                raise ConfigurationError(f"{source}: {name!r} is no setting of s3dlio{_suggest(name)}")
            if value is not None:
                merged[name] = _convert(source, name, value)
    return msgspec.convert(merged, Settings)


def _convert(source: str, name: str, value: Any) -> Any:
    where = f"{name} (from {source})" if source != "argument" else name
    if name == "memory_bytes" and value == "auto":
        return 0
    if name.endswith(("_bytes", "_bytes_s")):
        try:
            found: Any = parse_size(value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    else:
        try:
            kind = Settings.__annotations__[name]
            found = msgspec.convert(value, {"int": int, "float": float, "bool": bool}[kind], strict=not isinstance(value, str))
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    # A duration or a count of zero would be a busy loop or a deadlock; only the names in _MINIMUM may be lower than their default says.
    if not isinstance(found, bool) and found < _MINIMUM.get(name, sys.float_info.min if name.endswith("_s") else 0):
        raise ConfigurationError(f"{where}: {value!r} is too small")
    return found


def _renew_lock() -> None:
    # Another thread may hold it at the moment of a fork; the child would wait for ever.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
