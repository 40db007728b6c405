from __future__ import annotations

import pytest


@pytest.fixture
def one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """4-bit layers multiply with the kernel that they are trained with, as the trainer makes them."""
    import bitsandbytes.nn.modules as layers

    monkeypatch.setattr(layers, "has_avx512bf16", lambda: False)
