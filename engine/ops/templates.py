"""Templates of names: `object_{}.dat`, `part-{:05d}`. Pure."""

from __future__ import annotations

import string

from ..errors import ConfigurationError


def count_fields(template: str) -> int:
    """Returns how many fields a template has; only plain ones, so that it can name nothing but a number.

    Raises:
        ConfigurationError: It has none, or others.
    """
    try:
        fields = [(name, conversion) for _, name, _, conversion in string.Formatter().parse(template) if name is not None]
        template.format(*[0] * len(fields))
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise ConfigurationError(f"{template!r} is no template: {error}") from None
    if not fields or any(name or conversion for name, conversion in fields):
        raise ConfigurationError(f"{template!r} is no template: write fields as {{}} or {{:05d}}, and at least one")
    return len(fields)
