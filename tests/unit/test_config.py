"""Settings: where they are taken from, what is refused and what is warned of, and that the page says what the code does."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s3dlio.engine import config
from s3dlio.engine.config import Settings, configure, settings
from s3dlio.engine.errors import ConfigurationError
from s3dlio.engine.variables import ALIASES, WITHOUT_MEANING
from tests.support import settings_page


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without settings; what was read of it is forgotten before and behind."""
    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()


def forget() -> None:
    configure(**dict.fromkeys(Settings.__struct_fields__))
    config._current = None


def read(env: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        env.setenv(name, value)
    config._current = None
    return settings()


def test_each_place_stands_above_the_next(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("jobs = 11\nprocs = 11\nmax_attempts = 11\nsilence_timeout_s = 11\ndeadline_s = 11.0\n")
    alias = {"S3DLIO_OPERATION_TIMEOUT_SECS": "22", "S3DLIO_MAX_RETRY_ATTEMPTS": "22"}
    found = read(env, S3DLIO_CONFIG=str(tmp_path / "own.toml"), **alias, S3DLIO_MAX_ATTEMPTS="33", S3DLIO_PROCS="33", S3DLIO_JOBS="33")
    assert (found.silence_timeout_s, found.deadline_s, found.max_attempts, found.jobs, found.procs) == (11.0, 22.0, 33, 33, 33)
    configure(jobs=44, procs=44)
    assert (settings().jobs, settings().max_attempts) == (44, 33)
    assert (settings(jobs=55, procs=None).jobs, settings(jobs=55, procs=None).procs) == (55, 44)


CORES = os.cpu_count() or 1


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"S3DLIO_RT_THREADS": "1"}, {"procs": 1}),
        ({"S3DLIO_WORKER_THREADS": "1000"}, {"procs": CORES}),
        ({"S3DLIO_WORKER_THREADS": "1", "S3DLIO_RT_THREADS": "1000"}, {"procs": 1}),
        ({"S3DLIO_CONNECT_TIMEOUT_SECS": "20"}, {"connect_timeout_s": 20.0}),
        ({"S3DLIO_OPERATION_TIMEOUT_SECS": "60"}, {"deadline_s": 60.0}),
        ({"S3DLIO_MAX_RETRY_ATTEMPTS": "3"}, {"max_attempts": 3}),
        ({"S3DLIO_POOL_IDLE_TIMEOUT_SECS": "90"}, {"idle_connection_s": 90.0}),
        ({"S3DLIO_CHUNK_SIZE": "4194304"}, {"part_bytes": 4 << 20}),
        ({"S3DLIO_RANGE_THRESHOLD_MB": "32"}, {"split_above_bytes": 32 << 20}),
        ({"S3DLIO_RANGE_THRESHOLD_MB": "0"}, {"split_above_bytes": 1 << 16}),
        ({"S3DLIO_ENABLE_RANGE_OPTIMIZATION": "0", "S3DLIO_RANGE_THRESHOLD_MB": "32"}, {"split_above_bytes": 1 << 62}),
        ({"S3DLIO_ENABLE_RANGE_OPTIMIZATION": "1", "S3DLIO_RANGE_THRESHOLD_MB": "32"}, {"split_above_bytes": 32 << 20}),
        ({"S3DLIO_SIZE_CACHE_TTL_SECS": "60"}, {"size_cache_s": 60.0}),
        ({"S3DLIO_PUT_VERIFY": "1"}, {"verify_writes": True}),
        ({"S3DLIO_PUT_VERIFY": "false"}, {"verify_writes": False}),
        ({"S3DLIO_MPU_PUT_VERIFY": "true", "S3DLIO_PUT_VERIFY": "0"}, {"verify_writes": True}),
    ],
    ids=" ".join,
)
def test_a_variable_of_the_other_library_is_honoured_without_a_word(
    env: pytest.MonkeyPatch, variables: dict[str, str], expected: dict[str, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(env, **variables)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("variable", "text"), [("S3DLIO_WORKER_THREADS", "many"), ("S3DLIO_CHUNK_SIZE", "x"), ("S3DLIO_MAX_RETRY_ATTEMPTS", "0")]
)
def test_what_makes_no_sense_is_an_error_that_names_the_variable(env: pytest.MonkeyPatch, variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        read(env, **{variable: text})


@pytest.mark.parametrize("variable", [name.replace("*", "CHANNELS") for name in WITHOUT_MEANING])
def test_a_variable_of_the_other_library_that_changes_nothing_is_named_with_the_reason(env: pytest.MonkeyPatch, variable: str) -> None:
    reason = WITHOUT_MEANING.get(variable) or WITHOUT_MEANING["S3DLIO_GCS_*"]
    with pytest.warns(UserWarning, match=re.escape(f"{variable} changes nothing here: {reason}")):
        read(env, **{variable: "1"})


def test_an_unknown_variable_is_a_warning_that_knows_the_next_name(env: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="S3DLIO_PROCSS is no setting of s3dlio; did you mean procs?"):
        read(env, S3DLIO_PROCSS="1")
    env.delenv("S3DLIO_PROCSS")
    with pytest.raises(ConfigurationError, match="procss"):
        configure(procss=1)


def test_every_alias_stands_for_a_setting() -> None:
    assert {alias.setting for alias in ALIASES.values()} <= {*Settings.__struct_fields__}
    assert not {*ALIASES} & {*WITHOUT_MEANING}


def test_the_page_of_settings_says_what_the_code_does() -> None:
    described = settings_page.defaults()
    assert [found.name for found in described if not found.meaning] == []
    assert {found.name for found in described} == {*Settings.__struct_fields__} == {*settings_page.values()}
    text = settings_page.DOCUMENT.read_text()
    assert text == settings_page.render(described), "run `.venv/bin/python -m tests.support.settings_page`"
    for variable in config._OWN_VARIABLES:
        assert f"`{variable}`" in text
