"""Keys that libraries break, and where a store cannot have them.

A key is raw text: it goes to the store byte for byte, and comes back so from listings [K1]. Where a store itself knows no such key, the
one table below says so, with the reason; `docs/backends.md` says the same to users.
"""

from __future__ import annotations

NASTY_KEYS = {
    "space": "a b",
    "spaces at the ends": " a ",
    "plus": "a+b",
    "percent": "100%",
    "encoded slash": "a%2Fb",
    "encoded percent": "a%252Fb",
    "hash": "a#b",
    "question mark": "a?b=c",
    "ampersand": "a&b<c>d",
    "semicolon": "a;b",
    "tilde": "~a~b",
    "quotes": "a'b\"c`d",
    "brackets": "a[1]{2}(3)*!",
    "at, colon, comma, equals": "a@b:c,d=e$f",
    "backslash": "a\\b",
    "line break": "a\nb",
    "emoji": "crab 🦀",
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "no character": "a\uffffb",
    "1024 bytes": "/".join(["ü" * 50] * 10 + ["x" * 14]),
    "two slashes": "a//b",
    "three slashes": "c///d",
    "slash at the end": "dir/",
    "slash at the beginning": "/a",
    "dot segment": "a/./b",
    "dot": "./a",
    "parent segment": "a/../b",
    "parent": "../a",
    "dots": "a/.../..b",
    "hidden": ".hidden/.a",
    "scheme": "s3://other/a",
}
"""Each has a name for the table."""

_PATHS = "it is a path: the system takes the segment for no name"
_RCLONE = "rclone keeps objects as files, and refuses or cleans paths"

CANNOT: dict[str, dict[str, str]] = {
    "file": dict.fromkeys(
        ["two slashes", "three slashes", "slash at the end", "slash at the beginning", "dot segment", "dot", "parent segment", "parent",
         "scheme"], _PATHS,
    ),
    "moto": {"line break": "moto's routes end at a line break, and answer 404"},
    "rclone": dict.fromkeys(
        ["two slashes", "three slashes", "slash at the end", "slash at the beginning", "dot segment", "dot", "parent segment", "parent",
         "scheme"], _RCLONE,
    ),
    "az": {
        "backslash": "Azure takes it for a slash, so s3dlio refuses it",
        **dict.fromkeys(["dot segment", "dot", "parent segment", "parent"], "Azure resolves the segment, so s3dlio refuses it"),
        "dots": "Azure may drop dots before a slash, so s3dlio writes no such name",
    },
}  # fmt: skip
"""By place: names of keys that the store itself has not, and why."""
BREAKS: dict[str, dict[str, str]] = {"az": {"no character": "Azurite answers 500 to it, and to every listing from then on"}}
"""By place: names of keys that a store has, and its emulator does not survive."""
CANNOT["direct"] = CANNOT["file"]
assert len(NASTY_KEYS["1024 bytes"].encode()) == 1024


def usable_keys(place: str) -> list[str]:
    """Returns the keys that a store has, sorted as UTF-8."""
    found = [key for name, key in NASTY_KEYS.items() if name not in CANNOT.get(place, {}) | BREAKS.get(place, {})]
    return sorted(found, key=str.encode)


def unusable_keys(place: str) -> list[str]:
    """Returns the others."""
    return [key for name, key in NASTY_KEYS.items() if name in CANNOT.get(place, {})]
