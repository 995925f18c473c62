"""What stores cannot do: the keys that libraries break, and the tables of who has not which key, and who lacks what.

A key is raw text: it goes to the store byte for byte, and comes back so from listings [K1]. Where a store, or the server that stands
for it in the tests, knows no such thing, the two tables below say so, with the reason; `docs/backends.md` says the same to users.
"""

from __future__ import annotations

SITES = [
    "memory", "memory-await", "file", "file-await", "direct", "moto", "moto-await", "moto-sdk", "moto-sdk-await", "rclone", "rclone-sdk",
    "az", "az-await", "az-sdk", "gs", "gs-await", "gs-sdk",
]  # fmt: skip
"""Name of the store, its lane where that is not the fast one, and `await` where the `_async` forms are meant."""
CALLED_SITES = [site for site in SITES if not site.endswith("-await")]
"""For tests to which it makes no difference whether a verb is called or awaited."""

NASTY_KEYS = {
    "percent and plus": "a b+c%2Fd%252Fe%zz 100%",
    "query and fragment": "a#b?c=d&e;f",
    "marks": "~a'b\"c`d<e>f[1]{2}(3)*!g@h:i,j|k^l$",
    "spaces at the ends": " a ",
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
    "dots": "d/.../..b",
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

LACKS: dict[str, dict[str, str]] = {
    "memory": {"refusals": "a bucket of memory is there with its first object", "metadata": "memory keeps bytes alone"},
    "file": {"buckets": "a file system has directories, and no buckets", "metadata": "files have none"},
    "direct": {"buckets": "a file system has directories, and no buckets", "metadata": "files have none"},
    "rclone": {
        "markers": "rclone keeps `dir/` as a file `dir`, and has no object beside a directory of its name",
    },
}
"""By store: what it has not, and why."""


def sites_with(*wanted: str) -> list[str]:
    """Returns the sites whose stores have all of that."""
    return [site for site in SITES if not LACKS.get(site.partition("-")[0], {}).keys() & {*wanted}]


def usable_keys(place: str) -> list[str]:
    """Returns the keys that a store has, sorted as UTF-8."""
    found = [key for name, key in NASTY_KEYS.items() if name not in CANNOT.get(place, {}) | BREAKS.get(place, {})]
    return sorted(found, key=str.encode)


def unusable_keys(place: str) -> list[str]:
    """Returns the others."""
    return [key for name, key in NASTY_KEYS.items() if name in CANNOT.get(place, {})]
