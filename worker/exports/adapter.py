"""The adapter's folder in PEFT's layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from backend.core.exports.base import Facts
from worker.exports.context import ExportContext
from worker.exports.tensors import stored_tensors
from worker.exports.tokenizer_files import copy_licences, copy_tokenizer


def write_adapter(context: ExportContext, folder: Path) -> Facts:
    """PEFT's two files, the tokenizer with its template, the base's licence. The base is named as others can find it."""
    shutil.copyfile(context.trained / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    config: dict[str, Any] = json.loads((context.trained / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": context.base_name, "inference_mode": True}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    copy_tokenizer(context.tokenizer, folder)
    copy_licences(context.base, folder)
    return {"tensors": len(stored_tensors(folder, "adapter_model")), "added_tokens": len(context.added_token_ids)}
