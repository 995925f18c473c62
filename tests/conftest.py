"""Fixtures for every test: a clean environment, nothing left behind, and real servers to talk to."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import settings as hypothesis_settings

from tests.support.azurite import AzureEndpoint, AzuriteServer
from tests.support.fault_proxy import FaultProxy, Plan
from tests.support.gcs_server import GcsEndpoint, GcsServer
from tests.support.leaks import find_leaks, open_books, shut_down_engine, standing
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.rclone_server import RcloneServer
from tests.support.s3_endpoint import S3Endpoint, endpoint_env
from tests.support.scripted_server import ScriptedServer

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a shell: programs that are interrupted here would inherit that, and never notice.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: two cores are shared with servers and workers, so a single slow example says nothing.
hypothesis_settings.register_profile("ci", deadline=None, derandomize=False, max_examples=100, print_blob=True)
hypothesis_settings.load_profile("ci")

_has_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        item.stash[_has_failed] = True
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session", autouse=True)
def private_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Gives this run a temporary folder of its own, so that socket directories of other runs are not taken for ours."""
    # Chosen now, or pytest would put every tmp_path into the folder that is removed below.
    tmp_path_factory.getbasetemp()
    folder = tempfile.mkdtemp(prefix="test-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield
        shut_down_engine()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest, private_temporary_folder: None) -> Iterator[None]:
    """Fails a test that leaves a descriptor, thread, child, /dev/shm entry or socket directory behind.

    It comes before every other fixture of the test, so what these open is closed when it looks. After a failure it says nothing:
    the traceback keeps alive whatever the test held. Tests on a `site` share what it opened, and are looked at together, at its end.
    """
    if "site" in request.fixturenames:
        yield
        return
    before = open_books()
    yield
    leaks = find_leaks(before)
    if leaks and not request.node.stash.get(_has_failed, False):
        pytest.fail(f"the test left behind:\n{leaks}", pytrace=False)


@pytest.fixture(autouse=True)
def clean_aws_env(request: pytest.FixtureRequest, no_leaks: None) -> Iterator[None]:
    """Hides the developer's AWS and S3DLIO settings, and takes back what a test configured."""
    with pytest.MonkeyPatch.context() as patch:
        if "site" not in request.fixturenames:
            endpoint_env(patch, None)
        _forget_settings()
        yield
        _forget_settings()


@pytest.fixture
def scripted_server() -> Iterator[ScriptedServer]:
    """A server with an empty script: fill it by `then(...)`, or set `script`."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def object_server() -> Iterator[ObjectServer]:
    """A server with an empty dictionary of objects."""
    with ObjectServer() as server:
        yield server


@pytest.fixture
def fault_proxy() -> Iterator[Callable[..., FaultProxy]]:
    """Makes proxies: `fault_proxy(server.address, [Plan(...), ...])`."""
    with ExitStack() as stack:

        def start(target: tuple[str, int], plans: Iterable[Plan] | Callable[[int], Plan] = ()) -> FaultProxy:
            return stack.enter_context(FaultProxy(target, plans))

        yield start


@pytest.fixture(scope="session")
def rclone_s3(private_temporary_folder: None) -> Iterator[RcloneServer]:
    """One rclone for the whole run; ask it for `endpoint.new_bucket()`."""
    with standing():
        server = RcloneServer()
    with server:
        yield server


@pytest.fixture(scope="session")
def moto_s3(private_temporary_folder: None) -> Iterator[MotoServer]:
    """One moto for the whole run; ask it for `endpoint.new_bucket()`."""
    with standing():
        server = MotoServer()
    with server:
        yield server


@pytest.fixture(scope="session")
def gcs(private_temporary_folder: None) -> Iterator[GcsServer]:
    """One server of Google's API for the whole run; ask it for `endpoint.new_bucket()`."""
    with standing():
        server = GcsServer()
    with server:
        yield server


@pytest.fixture(scope="session")
def azurite(private_temporary_folder: None) -> Iterator[AzuriteServer]:
    """One Azurite for the whole run; ask it for `endpoint.new_container()`."""
    with standing():
        server = AzuriteServer()
    with server:
        yield server


@pytest.fixture
def s3_env(clean_aws_env: None) -> Iterator[Callable[[S3Endpoint | str], None]]:
    """Points the environment at a server: `s3_env(moto_s3.endpoint)`, `s3_env(object_server.url)`.

    Stores opened for the server are dropped afterwards, since the next server may get the same port.
    """
    with pytest.MonkeyPatch.context() as patch:
        yield lambda endpoint: endpoint_env(patch, endpoint)
        shut_down_engine()


@pytest.fixture
def gcs_env(clean_aws_env: None) -> Iterator[Callable[[GcsEndpoint | str], None]]:
    """As `s3_env`, for Google's: `gcs_env(gcs.endpoint)`, `gcs_env(scripted_server.url)`."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda endpoint: endpoint_env(patch, GcsEndpoint(endpoint) if isinstance(endpoint, str) else endpoint)
        shut_down_engine()


@pytest.fixture
def azure_env(clean_aws_env: None) -> Iterator[Callable[[AzureEndpoint | str], None]]:
    """As `s3_env`, for Azure's: `azure_env(azurite.endpoint)`, `azure_env(scripted_server.url)`."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda endpoint: endpoint_env(patch, AzureEndpoint(endpoint) if isinstance(endpoint, str) else endpoint)
        shut_down_engine()


def _forget_settings() -> None:
    config = sys.modules.get("s3dlio.engine.config")
    if config is not None:
        config.configure(**dict.fromkeys(config.Settings.__struct_fields__))
