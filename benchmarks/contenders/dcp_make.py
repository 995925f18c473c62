"""Saves a sharded model below a folder, by two ranks and torch's own writer: `dcp_make.py FOLDER MIB`."""

from __future__ import annotations

import sys

import torch.distributed.checkpoint as dcp
from _ranks import ranks
from _sharded import Sharded

with ranks() as (rank, _):
    dcp.save(Sharded(int(sys.argv[2]), rank).make_full(), storage_writer=dcp.FileSystemWriter(sys.argv[1]))
if rank == 0:
    print("{}")
