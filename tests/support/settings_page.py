"""Writes docs/configuration.md: every setting, and the variables of the other s3dlio. `python -m tests.support.settings_page`

Meanings and defaults are those of `configs/default.toml`, where each setting has a comment of its own; the rest is `engine/variables.py`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from s3dlio.engine.config import Settings
from s3dlio.engine.variables import ALIASES, WITHOUT_MEANING

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "configuration.md"
DEFAULTS = ROOT / "configs" / "default.toml"
_SECTION = re.compile(r"# --- (\w+) -+")
_SETTING = re.compile(r"(\w+) = (.+)")
_UNITS = {"int": "a number", "float": "a number", "bool": "true, false"}
_HEAD = """\
# Configuration

A setting is taken from the first of these places that has it:

1. the keyword of the call, where it has one: `s3dlio.Pool(procs=4)`;
2. `s3dlio.configure(procs=4)`, for the process;
3. its variable in the environment: `S3DLIO_PROCS=4`;
4. a variable of [the other s3dlio](#variables-of-the-other-s3dlio) that stands for it;
5. the TOML file that `S3DLIO_CONFIG` names: `procs = 4`;
6. `configs/default.toml`, from which this page takes meanings and defaults.

A wrong value is an error that names the place. So is an unknown name in a file or in `configure`; an unknown `S3DLIO_*` variable is a
warning, since it may be another program's. What is running (a pool, a bucket that is open) keeps the settings that it began with. Workers
have those of the process that started them.

Sizes are numbers of bytes, or text as `64KiB`, `1.5GB`. Credentials, endpoints and regions are no settings: each store takes them from
where its own tools do ([backends.md](backends.md)).
"""
_OTHERS = """\
## Variables that are no settings

| variable | meaning |
|---|---|
| `S3DLIO_CONFIG` | The path of a TOML file with settings. |
| `S3DLIO_SSE_CUSTOMER_KEY` | A key of yours that S3 encrypts objects with (SSE-C): 32 bytes in base64. Settings are shown; this never is. |
"""
_ALIASES = """\
## Variables of the other s3dlio

The package `s3dlio` on PyPI is another library, in Rust, with the same name for `import`. Whoever comes from there may keep these:

| variable | stands for | meaning |
|---|---|---|
"""
_WITHOUT_MEANING = """\
These change nothing, and a warning says so:

| variable | why |
|---|---|
"""
_DEAD = """\
Not looked at, there or here, though its guides have named them: `USE_OPTIMIZED_HTTP`, `MAX_HTTP_CONNECTIONS`, `MAX_CONCURRENCY`,
`CONNECTION_TIMEOUT`, `READ_TIMEOUT`, `MULTIPART_THRESHOLD`, `PART_SIZE`.

Written by `.venv/bin/python -m tests.support.settings_page`; not by hand.
"""


class Described(NamedTuple):
    """A setting as `configs/default.toml` has it."""

    section: str
    name: str
    default: str
    meaning: str


def read_defaults(text: str) -> Iterator[Described]:
    """Yields the settings of a commented TOML file, in its order; the meaning is empty where a setting has no comment of its own."""
    section, said = "", []
    for line in text.splitlines():
        if found := _SECTION.fullmatch(line):
            section, said = found[1], []
        elif line.startswith("#"):
            said.append(line.removeprefix("#").strip())
        elif found := _SETTING.fullmatch(line):
            yield Described(section, found[1], found[2], " ".join(said))
            said = []


def render(settings: list[Described]) -> str:
    """Returns the text of the page."""
    lines = [_HEAD]
    section = ""
    for found in settings:
        if found.section != section:
            section = found.section
            lines += ["", f"## {section.capitalize()}", "", "| setting | variable | unit | default | meaning |", "|---|---|---|---|---|"]
        default = found.default.strip('"')
        variable = f"S3DLIO_{found.name.upper()}"
        lines.append(f"| `{found.name}` | `{variable}` | {_unit(found.name)} | {default} | {_cell(found.meaning)} |")
    aliases = [f"| `{name}` | `{alias.setting}` | {_cell(alias.meaning)} |" for name, alias in ALIASES.items()]
    idle = [f"| `{name}` | {_cell(reason)} |" for name, reason in WITHOUT_MEANING.items()]
    others = ["", _OTHERS, _ALIASES + "\n".join(aliases), "", _WITHOUT_MEANING + "\n".join(idle), "", _DEAD]
    return "\n".join([*lines, *others])


def _unit(name: str) -> str:
    for ending, unit in (("_bytes_s", "bytes/s"), ("_bytes", "bytes"), ("_per_minute", "per minute"), ("_s", "seconds")):
        if name.endswith(ending):
            return unit
    return _UNITS[Settings.__annotations__[name]]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def defaults() -> list[Described]:
    """Returns the settings of `configs/default.toml`."""
    return [*read_defaults(DEFAULTS.read_text())]


def values() -> dict[str, object]:
    """Returns them as TOML reads them."""
    return tomllib.loads(DEFAULTS.read_text())


if __name__ == "__main__":
    DOCUMENT.write_text(render(defaults()))
