"""The guide's "s3torchconnector Compatibility", run as printed; data sets and checkpoints in the other schemes of its table too."""

from __future__ import annotations

import ast
import inspect
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import s3dlio
import s3dlio.compat.s3torchconnector as connector
from tests.spec.ground import Ground

ONE_LINE = """\
# Before (s3torchconnector):
from s3torchconnector import S3IterableDataset, S3MapDataset, S3Checkpoint

# After (s3dlio — zero code changes needed):
from s3dlio.compat.s3torchconnector import S3IterableDataset, S3MapDataset, S3Checkpoint
"""

ITERABLE = """\
from s3dlio.compat.s3torchconnector import S3IterableDataset
from torch.utils.data import DataLoader

dataset = S3IterableDataset.from_prefix("s3://bucket/train/", region="us-east-1")

for item in dataset:
    print(item.bucket, item.key)
    data = item.read()  # Returns BytesView (zero-copy)
    # Use with torch.frombuffer(data, dtype=torch.uint8)
"""

MAP = """\
from s3dlio.compat.s3torchconnector import S3MapDataset

dataset = S3MapDataset.from_prefix("s3://bucket/train/", region="us-east-1")
item = dataset[0]       # Random access
item = dataset[-1]      # Negative indexing supported
print(len(dataset))     # Number of objects
"""

CHECKPOINT = """\
from s3dlio.compat.s3torchconnector import S3Checkpoint
import torch

checkpoint = S3Checkpoint(region="us-east-1")

# Save — torch.save() writes to in-memory buffer, then uploads via put_bytes()
with checkpoint.writer("s3://bucket/model.pt") as writer:
    torch.save(model.state_dict(), writer)

# Load — downloads to BytesView, wrapped in seekable BufferedReader
with checkpoint.reader("s3://bucket/model.pt") as reader:
    state_dict = torch.load(reader, weights_only=True)
"""

CLIENT = """\
from s3dlio.compat.s3torchconnector import S3Client, S3ClientConfig

client = S3Client(
    region="us-east-1",
    endpoint="http://minio:9000",
    s3client_config=S3ClientConfig(force_path_style=True)
)

# Upload
writer = client.put_object("my-bucket", "key.bin")
writer.write(b"data")
writer.close()

# Download (full object)
reader = client.get_object("my-bucket", "key.bin")
data = reader.read()  # BytesView (zero-copy)

# Download (range — server-side, saves bandwidth)
reader = client.get_object("my-bucket", "key.bin", start=0, end=1023)
chunk = reader.read()  # 1024 bytes

# List
for result in client.list_objects("my-bucket", "prefix/"):
    for info in result.object_info:
        print(info.key)
"""

CLASSES = """\
| `S3IterableDataset.from_prefix(uri, region)` | Streaming dataset |
| `S3MapDataset.from_prefix(uri, region)` | Random access dataset |
| `S3Checkpoint(region)` | Checkpoint save/load |
| `S3Client(region, endpoint, config)` | Low-level client |
| `S3ClientConfig(force_path_style, max_attempts)` | Client configuration |
| `S3Item` | Item with `.bucket`, `.key`, `.read()` |
"""

OTHER_NAMES = {"uri": "s3_uri", "config": "s3client_config"}
"""What the guide's table calls shorter than upstream does."""
OBJECTS = {f"train/{number:03d}.npz": random.Random(number).randbytes(500 + number) for number in range(20)}

in_all_schemes = pytest.mark.parametrize("ground", ["s3", "gs", "az", "file"], indirect=True)


def test_one_line_changes(ground: Ground) -> None:
    found = ground.run(ONE_LINE)
    assert {name: type_.__module__ for name, type_ in found.items() if name.startswith("S3")} == {
        "S3IterableDataset": "s3dlio.compat.s3torchconnector.s3iterable_dataset",
        "S3MapDataset": "s3dlio.compat.s3torchconnector.s3map_dataset",
        "S3Checkpoint": "s3dlio.compat.s3torchconnector.s3checkpoint",
    }


@in_all_schemes
def test_iterable_dataset(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    ground.fill(OBJECTS)
    found = ground.run(ITERABLE)
    printed = capsys.readouterr().out.splitlines()
    root = ground.map("s3://bucket/").removesuffix("/").removeprefix("s3://")
    # What an item calls bucket and key is its URI, cut at some slash.
    assert [line.replace(" /", "/").replace(" ", "/") for line in printed] == [f"{root}/{key}" for key in sorted(OBJECTS)]
    assert isinstance(found["data"], s3dlio.BytesView)
    tensor = torch.frombuffer(found["data"], dtype=torch.uint8)
    assert tensor.numpy().tobytes() == OBJECTS["train/019.npz"]
    assert np.shares_memory(tensor.numpy(), found["data"])
    assert [item.read() for item in found["dataset"]] == [OBJECTS[key] for key in sorted(OBJECTS)]


@in_all_schemes
def test_map_dataset(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    ground.fill(OBJECTS)
    found = ground.run(MAP)
    assert capsys.readouterr().out == "20\n"
    assert isinstance(found["item"], connector.S3Item)
    assert found["item"].read() == OBJECTS["train/019.npz"]
    assert found["dataset"][0].read() == OBJECTS["train/000.npz"]


@in_all_schemes
def test_checkpoint(ground: Ground) -> None:
    model = torch.nn.Linear(300, 400)
    found = ground.run(CHECKPOINT, model=model)
    assert [*found["state_dict"]] == ["weight", "bias"]
    assert all(torch.equal(found["state_dict"][name], value) for name, value in model.state_dict().items())
    assert [*ground.objects()] == ["model.pt"]


@pytest.mark.parametrize("ground", ["s3"], indirect=True)
def test_client(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    ground.fill({"prefix/a": b"1", "prefix/b": b"2", "other": b"3"}, "my-bucket")
    found = ground.run(CLIENT)
    assert capsys.readouterr().out == "prefix/a\nprefix/b\n"
    assert isinstance(found["data"], s3dlio.BytesView)
    # Four bytes are all that the snippet has put there.
    assert found["data"] == found["chunk"] == b"data"
    assert ground.objects("my-bucket")["key.bin"] == b"data"


@pytest.mark.parametrize("ground", ["s3"], indirect=True)
def test_a_range_of_the_client_ends_with_its_end(ground: Ground) -> None:
    data = random.Random(3).randbytes(5000)
    ground.fill({"key.bin": data}, "my-bucket")
    # As printed, but with its own object left out: this one is long enough.
    ranged = CLIENT.partition("# Upload")[0] + CLIENT[CLIENT.index("# Download (range") : CLIENT.index("# List")]
    assert ground.run(ranged)["chunk"] == data[:1024]


ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in CLASSES.splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`").partition("(")[0])
def test_classes_take_the_arguments_of_the_guide(row: list[str]) -> None:
    call = ast.parse(row[0].strip("`"), mode="eval").body
    if isinstance(call, ast.Name):
        assert {"bucket", "key", "read"} <= {*dir(getattr(connector, call.id))}
        return
    assert isinstance(call, ast.Call)
    function = eval(ast.unparse(call.func), vars(connector))
    names = [OTHER_NAMES.get(arg.id, arg.id) for arg in call.args if isinstance(arg, ast.Name)]
    signature = inspect.signature(function)
    assert [*signature.bind(**dict.fromkeys(names)).arguments] == [name for name in signature.parameters if name in names]
    assert {*names} <= {*signature.parameters}


PAGE = (Path(__file__).parents[2] / "docs" / "migrating-from-s3torchconnector.md").read_text()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
@pytest.mark.parametrize("ground", ["s3"], indirect=True)
def test_the_code_of_the_migration_page_runs(ground: Ground) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    state = {"weight": torch.arange(1000)}
    for block in blocks:
        ground.run(block, state_dict=state)
    assert len(blocks) == 2
    assert [*ground.objects()] == ["step-1/.metadata", "step-1/__0_0.distcp"]


def test_the_imports_of_the_migration_page_are_there() -> None:
    rows = re.findall(r"^\| `((?:from|import) [^`]*)` \| `([^`]*)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 5
    for before, after in rows:
        given: dict[str, object] = {}
        found: dict[str, object] = {}
        exec(before, given)
        exec(after, found)
        assert given.keys() == found.keys()
