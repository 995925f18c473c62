"""Operations that are interrupted: what they began is thrown away, by whoever drives them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from s3dlio.engine.errors import S3dlioError, ServerError
from s3dlio.engine.fetch.request import Fetch
from s3dlio.engine.pool import inline
from s3dlio.engine.pool.inline import InlineFetcher
from s3dlio.engine.stores.base import Operation, arun, run


def request(name: str) -> Fetch:
    return Fetch(None, name, None, name)


def careful() -> Operation[None]:
    """Asks for "part", and, whatever goes wrong with it, for "abort"."""
    try:
        yield request("part")
    except BaseException:
        yield request("abort")
        raise


def test_an_interrupt_has_an_operation_abort_what_it_began() -> None:
    asked = []

    def runner(fetch: Fetch) -> Fetch:
        asked.append(fetch.uri)
        if fetch.uri == "part":
            raise KeyboardInterrupt
        return fetch

    with pytest.raises(KeyboardInterrupt):
        run(careful(), runner)
    assert asked == ["part", "abort"]


def test_a_cancel_has_an_operation_abort_what_it_began() -> None:
    asked = []

    async def runner(fetch: Fetch) -> Fetch:
        asked.append(fetch.uri)
        if fetch.uri == "part":
            await asyncio.Event().wait()
        return fetch

    async def main() -> None:
        task = asyncio.create_task(arun(careful(), runner))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert asked == ["part", "abort"]


class _Recorder(InlineFetcher):
    """Answers nothing, and records what it is asked beside the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def run_briefly(self, fetch: Fetch, until_s: float | None = None) -> Fetch:
        self.asked.append(fetch.uri)
        if len(self.asked) == 1:
            raise ServerError("the first abort fails")
        return fetch


class _Silent:
    is_local = True

    def read(self, fetch: Fetch, grant: object) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_has_all_operations_under_way_abort_what_they_began() -> None:
    fetcher = _Recorder()

    def stubborn(name: str) -> Operation[None]:
        try:
            yield Fetch(None, name, _Silent(), name)
        except BaseException:
            yield request(f"abort {name}")
            raise

    def operations() -> Iterator[tuple[str, Operation[None]]]:
        for name in ("a", "b"):
            yield name, stubborn(name)

    with pytest.raises(KeyboardInterrupt):
        list(fetcher.run_many(operations(), 2))
    assert fetcher.asked == ["abort a", "abort b"]
    fetcher.close()


def test_whoever_leaves_gives_all_aborts_together_a_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "LEAVING_S", 0.0)
    fetcher = InlineFetcher()
    errors: list[S3dlioError] = []

    def stubborn(name: str) -> Operation[None]:
        try:
            yield Fetch(None, name, _Silent(), name)
        except BaseException:
            try:
                yield request(f"abort {name}")
            except S3dlioError as error:
                errors.append(error)
            raise

    with pytest.raises(KeyboardInterrupt):
        list(fetcher.run_many([(name, stubborn(name)) for name in ("a", "b")], 2))
    assert [type(error).__name__ for error in errors] == ["StoreTimeoutError"] * 2
    fetcher.close()
