"""Programs of s3torchconnector's interface, which run with either implementation: a changed import is all the difference there is."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

# The CRT sizes its connection pool by this figure: it shall not be short of connections on loopback.
WIDE_GBPS = 100.0


def config(classes: Any, *, is_wide: bool = True) -> Any:
    """Makes a configuration for a server of this machine, else with all defaults unless it is wide."""
    wide = {"throughput_target_gbps": WIDE_GBPS} if is_wide else {}
    return classes.S3ClientConfig(force_path_style=True, **wide)


def main(classes: Any) -> None:
    """Runs the program that `--variant` names with the classes of a package: `checkpoint`, `dcp`, or a kind of data set."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--variant")
    program = parser.parse_known_args()[0].variant.partition("_")[0]
    if program not in ("checkpoint", "dcp"):
        program = "loading"
    importlib.import_module(f"_connector_{program}").run(classes)
