"""The oracle is a tree of files written as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from s3dlio.engine.memory.limits import available_memory, default_memory_bytes

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> tuple[str, str]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root / "proc"), str(root / "cgroup")


MEMINFO = "MemTotal:       8388608 kB\nMemFree:         100 kB\nMemAvailable:    4194304 kB\n"


def test_m1_available_memory_is_that_of_the_machine_where_no_group_limits_it(tmp_path: Path) -> None:
    places = write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"})
    assert available_memory(*places) == 4096 * MIB


def test_m1_the_limit_of_the_own_group_counts_without_its_droppable_cache(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/job.slice/run\n",
        "cgroup/job.slice/run/memory.max": f"{512 * MIB}\n",
        "cgroup/job.slice/run/memory.current": f"{300 * MIB}\n",
        "cgroup/job.slice/run/memory.stat": f"anon 1\nfile 2\ninactive_file {50 * MIB}\nactive_file 3\n",
        "cgroup/job.slice/memory.max": "max\n",
    }
    assert available_memory(*write(tmp_path, files)) == 262 * MIB


def test_m1_the_tightest_parent_counts(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/job.slice/run\n",
        "cgroup/job.slice/run/memory.max": f"{512 * MIB}\n",
        "cgroup/job.slice/run/memory.current": "0\n",
        "cgroup/job.slice/memory.max": f"{64 * MIB}\n",
        "cgroup/job.slice/memory.current": f"{60 * MIB}\n",
    }
    assert available_memory(*write(tmp_path, files)) == 4 * MIB


def test_m1_a_container_of_version_1_whose_path_is_the_hosts_is_limited_at_the_mount(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "5:cpu:/docker/abc\n4:hugetlb,memory:/docker/abc\n0::/\n",
        "cgroup/memory/memory.limit_in_bytes": f"{256 * MIB}\n",
        "cgroup/memory/memory.usage_in_bytes": f"{100 * MIB}\n",
        "cgroup/memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {10 * MIB}\n",
    }
    assert available_memory(*write(tmp_path, files)) == 166 * MIB


def test_m1_the_huge_number_that_stands_for_no_limit_is_none(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "4:memory:/\n",
        "cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert available_memory(*write(tmp_path, files)) == 4096 * MIB


def test_m1_a_group_that_is_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/x\n",
        "cgroup/x/memory.max": "4096\n",
        "cgroup/x/memory.current": "8192\n",
    }
    assert available_memory(*write(tmp_path, files)) == 0


def test_without_any_of_the_files_the_machine_itself_is_the_limit(tmp_path: Path) -> None:
    assert available_memory(*write(tmp_path, {})) > 0


def test_auto_is_a_quarter_of_what_is_available_and_at_most_a_gibibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((400 * MIB, 100 * MIB), (64 << 30, 1 << 30)):
        monkeypatch.setattr("s3dlio.engine.memory.limits.available_memory", lambda value=available: value)
        assert default_memory_bytes() == expected
