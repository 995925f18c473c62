"""How `torch.utils.data.default_collate` makes a batch of what `read()` gives: as of `bytes`, which it leaves as they are.

Without this it takes views for arrays: it stacks those of equal length, and refuses all others. Importing this module tells it.
"""

from __future__ import annotations

from torch.utils.data._utils.collate import default_collate_fn_map

from s3dlio.engine.memory.view import BytesView

default_collate_fn_map[BytesView] = default_collate_fn_map[bytes]
