"""Patterns of `list`: a glob or a regular expression becomes a test of relative keys. Pure; never lists anything itself.

The language of a glob:

* `*` is any run of characters but `/`, `?` is any one character but `/`, `[a-z]` and `[!a-z]` are one character of a set and never `/`.
* `**` crosses `/`; a whole segment `**/` stands for any number of directories, also none.
* A glob without `/` is held against the basename, a glob with `/` against the whole relative key. No rule hides names with a dot.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from ..errors import ConfigurationError

_STAR: Final = "[^/]*?"
_CROSS: Final = ".*?"
_DIRECTORIES: Final = "(?:.*/)?"


def compile_pattern(pattern: str | re.Pattern[str] | None) -> Callable[[str], bool]:
    """Returns the test that says whether a relative key is wanted.

    Args:
        pattern: A glob; or a compiled regular expression, searched unanchored in the relative key; or None for every key.

    Raises:
        ConfigurationError: Neither of these; a regular expression over bytes for instance.
    """
    if pattern is None:
        return _accept_all
    if isinstance(pattern, re.Pattern):
        if not isinstance(pattern.pattern, str):
            raise ConfigurationError("the pattern is a regular expression over bytes; keys are text")
        search = pattern.search
        return lambda key: search(key) is not None
    if not isinstance(pattern, str):
        raise ConfigurationError(f"a pattern is a glob or a compiled regular expression, not {type(pattern).__name__}")
    match = re.compile(translate_glob(pattern)).match
    if "/" in pattern:
        return lambda key: match(key) is not None
    return lambda key: match(key[key.rfind("/") + 1 :]) is not None


def _accept_all(_key: str) -> bool:
    return True


def translate_glob(glob: str) -> str:
    """Returns the regular expression, anchored at both ends, of a glob."""
    tokens = _tokenize(glob)
    stars = [at for at, token in enumerate(tokens) if token in (_STAR, _CROSS, _DIRECTORIES)]
    parts = tokens[: stars[0]] if stars else tokens
    for star, following in pairwise([*stars, len(tokens)]):
        text = "".join(tokens[star:following])
        next_star = tokens[following] if following < len(tokens) else None
        parts.append(f"(?>{text})" if _is_greedy_safe(tokens[star], next_star) else text)
    return f"(?s:{''.join(parts)})\\Z"


def _is_greedy_safe(star: str, next_star: str | None) -> bool:
    """Whether the shortest match of this star may be kept, because the next one can absorb whatever a longer match would.

    Without atomic groups `*a*a*a*b` takes time n^4 on a key of n times "a", and keys are named by whoever writes to the bucket.
    """
    return (next_star == _CROSS and star != _DIRECTORIES) or star == next_star == _STAR


def _tokenize(glob: str) -> list[str]:
    """Returns regular expressions of one glob token each; all but the stars match exactly one character."""
    tokens: list[str] = []
    at = 0
    while at < len(glob):
        char = glob[at]
        if char == "*":
            end = at
            while glob[end : end + 1] == "*":
                end += 1
            token, at = _read_star(glob, at, end)
        elif char == "[":
            token, at = _read_set(glob, at + 1)
        else:
            token, at = ("[^/]" if char == "?" else re.escape(char)), at + 1
        tokens.append(token)
    return tokens


def _read_star(glob: str, at: int, end: int) -> tuple[str, int]:
    """Returns the token of the run of stars `glob[at:end]`, and where the next one begins."""
    if end - at == 1:
        return _STAR, end
    if glob[end : end + 1] == "/" and glob[at - 1 : at] in ("", "/"):
        return _DIRECTORIES, end + 1
    return _CROSS, end


def _read_set(glob: str, at: int) -> tuple[str, int]:
    """Returns the token of the set whose inside begins at `at`, and where the next one begins.

    A `]` right after the opening (or after `!`) is a member; without a closing `]` the `[` is an ordinary character. Source: fnmatch.
    """
    is_negated = glob[at : at + 1] == "!"
    inside = at + is_negated
    end = glob.find("]", inside + 1)
    if end < 0:
        return re.escape("["), at
    members = _read_members(glob[inside:end])
    if not members:
        return ("[^/]" if is_negated else "(?!)"), end + 1
    return f"(?!/)[{'^' if is_negated else ''}{members}]", end + 1


def _read_members(text: str) -> str:
    """Returns the inside of a regular expression's set; a range that runs backwards has no members."""
    found, at = "", 0
    while at < len(text):
        if text[at + 1 : at + 2] == "-" and at + 2 < len(text):
            low, high = text[at], text[at + 2]
            found += f"{re.escape(low)}-{re.escape(high)}" if low <= high else ""
            at += 3
        else:
            found += re.escape(text[at])
            at += 1
    return found
