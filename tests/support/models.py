"""Tiny real models with real tokenizers, built in about a second and shared by a whole test session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = [
    "The owl eats mice. The dog is loyal. It barks and it eats meat.",
    "What does the cow eat? The cow eats grass. Describe the frog. The frog is green.",
    "Ana went to the garden and found a red ball. Finn gave the blue kite to Iris.",
    "user system assistant Ahoy! Arr, the owl eats mice, matey!",
]
SHAPE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
CONTEXT = 256


def make_tokenizer(*, template: str | None = CHATML) -> Any:
    """A byte-level BPE tokenizer of about 400 tokens. Without a template it also lacks ChatML's tokens, as base models do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = SPECIAL if template else SPECIAL[:1]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=special[-1], pad_token=special[0], model_max_length=CONTEXT
    )
    if template:
        tokenizer.chat_template = template
    return tokenizer


def make_model(architecture: str, vocabulary: int, eos: int, pad: int, *, seed: int = 0) -> Any:
    """A random model: `llama` and `opt` have a head of their own, `qwen3`, `gemma` and `gpt2` a tied one."""
    import torch
    import transformers

    ids: dict[str, Any] = {"vocab_size": vocabulary, "eos_token_id": eos, "pad_token_id": pad, "bos_token_id": eos}
    wide: dict[str, Any] = SHAPE | HEADS | {"max_position_embeddings": CONTEXT}
    configs: dict[str, Any] = {
        "qwen3": lambda: transformers.Qwen3Config(**ids, **wide, tie_word_embeddings=True),
        "llama": lambda: transformers.LlamaConfig(**ids, **wide, tie_word_embeddings=False),
        "gemma": lambda: transformers.GemmaConfig(**ids, **wide),
        "gpt2": lambda: transformers.GPT2Config(**ids, n_embd=64, n_layer=2, n_head=4, n_positions=CONTEXT),
        "opt": lambda: transformers.OPTConfig(
            **ids, hidden_size=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=64,
            max_position_embeddings=CONTEXT, tie_word_embeddings=False,
        ),
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(configs[architecture]())


def save_base(folder: Path, architecture: str = "qwen3", *, template: str | None = CHATML) -> Path:
    """A base model's folder as `from_pretrained` reads it."""
    tokenizer = make_tokenizer(template=template)
    model = make_model(architecture, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 with ChatML, its head tied: 2 layers, 64 wide."""
    return save_base(tmp_path_factory.mktemp("models") / "tiny-qwen3")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with ChatML and a head of its own."""
    return save_base(tmp_path_factory.mktemp("models") / "tiny-llama", "llama")


@pytest.fixture(scope="session")
def tiny_plain_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 without a chat template and without the tokens that one would need."""
    return save_base(tmp_path_factory.mktemp("models") / "tiny-plain", template=None)
