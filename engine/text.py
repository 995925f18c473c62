"""Text that is fit to be shown: bounded, and without control characters. Pure."""

from __future__ import annotations

MAX_TEXT_CHARS = 4096
"""Texts of errors are cut to this many characters: 16 KiB of UTF-8 at most, well below the 64 KiB that case P12 allows."""


def clip(text: str) -> str:
    """Returns `text`, cut in the middle if it is longer than `MAX_TEXT_CHARS`."""
    if len(text) <= MAX_TEXT_CHARS:
        return text
    half = MAX_TEXT_CHARS // 2 - 16
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"


def clean(text: str) -> str:
    """Returns `text` fit for a log or a terminal: control characters and lone surrogates escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
