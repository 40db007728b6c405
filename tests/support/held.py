"""Counts the bytes that PyTorch really holds."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class Held(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: int = 0
        self.most: int = 0
        self.sizes: dict[int, int] = {}

    def track(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.alive += storage.nbytes()
            self.most = max(self.most, self.alive)
            weakref.finalize(storage, self._gone, key)
        return tensor

    def _gone(self, key: int) -> None:
        self.alive -= self.sizes.pop(key, 0)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map_only(torch.Tensor, self.track, function(*args, **(kwargs or {})))
