"""Imports each light module in a fresh interpreter and looks at what came with it.

import-linter reads imports; it cannot tell a lazy one from one that runs. This runs them. The face, the command line's start and
everything that a worker process imports must load no framework, no SDK, and (but for the consumer's rooms) no numpy.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "jax", "tensorflow", "boto3", "botocore", "google", "azure")
RULES = {
    "s3dlio/__init__.py": (*HEAVY, "numpy", "zmq"),
    "s3dlio/engine/cli/app.py": (*HEAVY, "numpy"),
    "s3dlio/engine/fetch/*.py": (*HEAVY, "numpy"),
    "s3dlio/engine/stores/*.py": (*HEAVY, "numpy"),
    "s3dlio/engine/pool/worker.py": (*HEAVY, "numpy", "rich", "typer"),
}
"""Files of the wheel, by glob, and the top-level packages that importing them must not load."""


def module_name(wheel: Path, file: Path) -> str:
    """Returns the dotted name of a file of the wheel."""
    parts = file.relative_to(wheel).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def loaded(wheel: Path, module: str, unwanted: tuple[str, ...]) -> list[str]:
    """Imports `module` in a fresh interpreter and returns the unwanted packages that it loaded."""
    script = f"import sys; sys.path.insert(0, {str(wheel)!r}); import {module}; print(*sys.modules, sep='\\n')"
    run = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    if run.returncode:
        return [f"(it cannot be imported: {run.stderr.strip().splitlines()[-1]})"]
    return sorted({name.partition(".")[0] for name in run.stdout.split()} & set(unwanted))


def main() -> int:
    """Prints a line for every broken rule; returns 1 if there is one."""
    wheel = Path(sys.argv[1])
    checked = broken = 0
    for pattern, unwanted in RULES.items():
        for file in sorted(wheel.glob(pattern)):
            module = module_name(wheel, file)
            checked += 1
            if found := loaded(wheel, module, unwanted):
                broken += 1
                print(f"import {module} loads {', '.join(found)}")
    print(f"{checked} modules imported, {broken} with what they must not load")
    return 1 if broken or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
