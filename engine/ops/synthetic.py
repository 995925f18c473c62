"""`put`: writes objects of made-up data, to fill a store before it is measured.

The data of all objects lies in one piece of memory, from which they are sent: whatever their number, it takes the room of one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from ..config import parse_size
from ..errors import ConfigurationError
from ..stores.registry import is_file_scheme
from ..uri import as_directory, parse_uri
from .buckets import make_bucket
from .objects import write
from .perform import Outcomes, check_in_flight, perform, perform_many
from .templates import count_fields

_SIZE_BYTES: Final = 20 << 20
_SHIFT_BYTES: Final = 4099
_SHIFT_MODULUS: Final = 1_048_583
"""Object i begins at i * 4099 modulo this. Both are prime, so no two of a million begin alike, nor do their blocks of any even length."""
_TYPES: Final = {"zeros": False, "random": True, "raw": True}
_MODES: Final = ("streaming", "single-pass")
_ALGORITHMS: Final = ("random", "prand")


class Plan(NamedTuple):
    """What `put` is to write, checked."""

    base: str
    """Ends in `/`."""
    template: str
    num_fields: int
    num: int
    size: int
    max_in_flight: int
    makes_bucket: bool
    is_random: bool
    dedup: int
    compress: int
    is_seeded: bool
    are_alike: bool
    chunk_bytes: int

    def pairs(self, data: memoryview) -> Iterator[tuple[str, memoryview]]:
        """Yields URI and data of each object; `data` is what `data` returned."""
        for index in range(self.num):
            begin = index * _SHIFT_BYTES % _SHIFT_MODULUS if len(data) > self.size else 0
            yield self.base + self.template.format(*(index, self.num)[: self.num_fields]), data[begin : begin + self.size]

    def data(self) -> memoryview:
        """Makes the data of all objects, which takes a second per 400 MB."""
        if not self.is_random or not self.num:
            return memoryview(bytes(self.size))
        make = random.Random(0).randbytes if self.is_seeded else os.urandom
        num_bytes = self.size if self.are_alike else self.size + _SHIFT_MODULUS
        data = bytearray(num_bytes)
        for begin in range(0, num_bytes, self.chunk_bytes * self.dedup):
            chunk = make(-(-self.chunk_bytes // self.compress)).ljust(self.chunk_bytes, b"\0")
            room = min(self.chunk_bytes * self.dedup, num_bytes - begin)
            data[begin : begin + room] = (chunk * self.dedup)[:room]
        return memoryview(data)


def put(
    prefix: str,
    num: int,
    template: str | None = None,
    max_in_flight: int = 64,
    size: int | str | None = None,
    should_create_bucket: bool = False,
    object_type: str = "zeros",
    dedup_factor: int = 1,
    compress_factor: int = 1,
    data_gen_algorithm: str = "random",
    data_gen_mode: str = "streaming",
    chunk_size: int = 262_144,
) -> None:
    """Writes `num` objects of made-up data below `prefix`.

    Args:
        prefix: A `/` is added where it is missing.
        num: How many.
        template: Their names: the first field (`{}`, `{:05d}`) is the number from 0, a second one is `num`. `object-{}` if absent.
        max_in_flight: Requests at once.
        size: Bytes of each, also as "20MiB", which it is if absent.
        should_create_bucket: Whether the bucket is made first. Directories are made in any case.
        object_type: "zeros", or "random" ("raw" is the same).
        dedup_factor: Of random data: how often each chunk stands there, one after the other.
        compress_factor: Of random data: each chunk is random to one part in so many, and zeros behind that.
        data_gen_algorithm: "random" has the operating system make it; "prand" makes the same in each run.
        data_gen_mode: "streaming" makes objects that differ from each other, "single-pass" all of one kind.
        chunk_size: Bytes of a chunk, at least 512.

    Raises:
        ConfigurationError: An argument makes no sense here; the text says which does.
        S3dlioError: The first error, after all were tried; it says how many failed.
    """
    plan = plan_of(
        prefix, num, template, max_in_flight, size, should_create_bucket, object_type, dedup_factor, compress_factor,
        data_gen_algorithm, data_gen_mode, chunk_size,
    )  # fmt: skip
    if plan.makes_bucket:
        perform(make_bucket, plan.base)
    outcomes = Outcomes(keeps=False)
    todos = ((uri, partial(write, data=data)) for uri, data in plan.pairs(plan.data()))
    perform_many(todos, plan.max_in_flight, outcomes.note, are_writes=True)
    outcomes.raise_first()


def plan_of(
    prefix: str,
    num: int,
    template: str | None = None,
    max_in_flight: int = 64,
    size: int | str | None = None,
    should_create_bucket: bool = False,
    object_type: str = "zeros",
    dedup_factor: int = 1,
    compress_factor: int = 1,
    data_gen_algorithm: str = "random",
    data_gen_mode: str = "streaming",
    chunk_size: int = 262_144,
) -> Plan:
    """Checks the arguments of `put`.

    Raises:
        ConfigurationError: As `put`.
    """
    base, names = as_directory(str(parse_uri(prefix))), "object-{}" if template is None else template
    num_fields = count_fields(names)
    if num_fields > 2:
        raise ConfigurationError(f"{names!r} has {num_fields} fields: the first is the number of an object, the second how many there are")
    kind = _choice("object_type", object_type, tuple(_TYPES))
    dedup, compress = _count("dedup_factor", dedup_factor, 1), _count("compress_factor", compress_factor, 1)
    if not _TYPES[kind] and (dedup, compress) != (1, 1):
        raise ConfigurationError("dedup_factor and compress_factor are those of random data; say object_type='random'")
    return Plan(
        base=base,
        template=names,
        num_fields=num_fields,
        num=_count("num", num, 0),
        size=_SIZE_BYTES if size is None else parse_size(size),
        max_in_flight=check_in_flight(max_in_flight),
        makes_bucket=bool(should_create_bucket) and not is_file_scheme(base),
        is_random=_TYPES[kind],
        dedup=dedup,
        compress=compress,
        is_seeded=_choice("data_gen_algorithm", data_gen_algorithm, _ALGORITHMS) == "prand",
        are_alike=_choice("data_gen_mode", data_gen_mode, _MODES) == "single-pass",
        chunk_bytes=_count("chunk_size", chunk_size, 512),
    )


def _choice(name: str, given: Any, known: tuple[str, ...]) -> str:
    found = given.lower() if isinstance(given, str) else given
    if found not in known:
        raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, known))}, not {given!r}")
    return str(found)


def _count(name: str, given: Any, least: int) -> int:
    if type(given) is not int or given < least:
        raise ConfigurationError(f"{name} must be an int of at least {least}, not {given!r}")
    return given
