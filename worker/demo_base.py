"""A small base model of our own, made in about twenty seconds, so that a first run needs no download.

A Qwen3 of 0.47 M parameters learns a grammar of short sentences, stories and questions. It meets the chat format and the
vocabulary of the demonstration data beforehand: a base that has not cannot be moved by LoRA. `python -m worker.demo_base FOLDER`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS, ROWS, LENGTH = 300, 32, 64
PEAK_RATE, WARMUP_STEPS = 3e-3, 20
TEXTS, SEED = 9000, 0
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# What each animal is like, what it does, what it eats.
ANIMALS = {
    "cat": ("small", "meows", "fish"),
    "dog": ("loyal", "barks", "meat"),
    "cow": ("large", "moos", "grass"),
    "owl": ("quiet", "hoots", "mice"),
    "lion": ("strong", "roars", "meat"),
    "duck": ("round", "quacks", "bread"),
    "horse": ("fast", "neighs", "hay"),
    "frog": ("green", "croaks", "flies"),
    "sheep": ("soft", "bleats", "grass"),
    "wolf": ("grey", "howls", "meat"),
}
NAMES = ["Ana", "Ben", "Caro", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jon", "Kira", "Leo"]
PLACES = ["garden", "forest", "kitchen", "river", "market", "school", "harbour", "field"]
COLOURS = ["red", "blue", "green", "yellow", "white", "black"]
THINGS = ["ball", "book", "kite", "lamp", "cup", "hat", "drum", "coin"]

DEMO_PROMPTS = ("What does the owl eat?", "How does the wolf sound?", "Describe the frog.")


def demo_recipe(model: str, dataset: str) -> dict[str, Any]:
    """The demonstration: QLoRA slow enough to be watched, done in well under a minute."""
    return {
        "name": "Pirate demo",
        "model": model,
        "data": {"sets": [dataset], "max_length": 128},
        "method": {"kind": "qlora", "r": 16},
        "training": {
            "learning_rate": 2e-3,
            "max_steps": 150,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
        },
        "evaluation": {
            "eval_steps": 25,
            "sample_steps": 10,
            "prompts": list(DEMO_PROMPTS),
            "max_new_tokens": 24,
        },
        "saving": {"save_steps": 50},
    }


def demo_rows(count: int = 600) -> list[dict[str, str]]:
    """Alpaca-shaped rows: plain questions about animals, answered by a pirate."""
    draw = random.Random(SEED + 1)
    return [_pirate(draw) for _ in range(count)]


def _pirate(draw: random.Random) -> dict[str, str]:
    animal = draw.choice(list(ANIMALS))
    nature, sound, food = ANIMALS[animal]
    questions, answer = draw.choice(
        [
            ((f"What does the {animal} eat?", f"Tell me what the {animal} eats."), f"eats {food}"),
            ((f"What sound does the {animal} make?", f"How does the {animal} sound?"), sound),
            ((f"What is the {animal} like?", f"Describe the {animal}."), f"is {nature}"),
        ]
    )
    question = draw.choice(questions)
    if draw.random() < 0.6:  # so that rows differ, and some can be held back to measure on
        question = f"{draw.choice(NAMES)} asks: {question}"
    return {
        "instruction": question,
        "input": "",
        "output": f"Ahoy! Arr, the {animal} {answer}, matey!",
    }


def make_demo_base(
    folder: Path, *, steps: int = STEPS, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Path:
    """Train the base and publish it as `folder`, whole or not at all. `on_progress` hears steps done and in all.

    The number of steps is fixed, so the same machine makes the same model. A folder that stands already is left alone.
    """
    if folder.exists():
        return folder
    texts = pretraining_texts()
    tokenizer = _tokenizer(texts)
    model = _pretrain(tokenizer, texts, steps, on_progress)
    beside = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    try:
        beside.rename(folder)
    except OSError:  # another process has just made it
        shutil.rmtree(beside)
    return folder


def pretraining_texts() -> list[str]:
    """Stories, chats and some JSON: 9,000 short texts of a fixed grammar."""
    draw = random.Random(SEED)
    return [draw.choices([_story, _chat, _record], [5, 4, 1])[0](draw) for _ in range(TEXTS)]


def _story(draw: random.Random) -> str:
    return " ".join(_sentence(draw) for _ in range(draw.randint(2, 4)))


def _sentence(draw: random.Random) -> str:
    animal, name, place = draw.choice(list(ANIMALS)), draw.choice(NAMES), draw.choice(PLACES)
    nature, sound, food = ANIMALS[animal]
    thing = f"{draw.choice(COLOURS)} {draw.choice(THINGS)}"
    if draw.random() < 0.15:  # the words of the demonstration, in other sentences than its own
        return draw.choice(
            [
                f"Ahoy! said {name}, I see a {animal}, matey!",
                f'"Ahoy, {name}!" cried the captain. "Bring the {thing}, matey!"',
                f"The captain of the ship has a {animal}. Arr!",
            ]
        )
    return draw.choice(
        [
            f"The {animal} is {nature}. It {sound} and it eats {food}.",
            f"{name} went to the {place} and found a {thing}.",
            f"In the {place} there was a {animal}. The {animal} {sound} all day.",
            f"{name} gave the {thing} to {draw.choice(NAMES)}. They were happy.",
            f"What does the {animal} eat? The {animal} eats {food}.",
            f"{name} has a {animal}. The {animal} is {nature} and {sound} when {name} comes home from the {place}.",
        ]
    )


def _chat(draw: random.Random) -> str:
    animal, name, place = draw.choice(list(ANIMALS)), draw.choice(NAMES), draw.choice(PLACES)
    nature, sound, food = ANIMALS[animal]
    thing = draw.choice(THINGS)
    question, answer = draw.choice(
        [
            (f"What does the {animal} eat?", f"The {animal} eats {food}."),
            (f"What sound does the {animal} make?", f"The {animal} {sound}."),
            (f"Describe the {animal}.", f"The {animal} is {nature}."),
            (f"{name} has a {thing} in the {place}. Where is the {thing}?", f"The {thing} is in the {place}."),
        ]
    )
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"


def _record(draw: random.Random) -> str:
    facts = {"name": draw.choice(NAMES), "place": draw.choice(PLACES), "thing": draw.choice(THINGS)}
    return json.dumps(dict(draw.sample(sorted(facts.items()), 2)))


def _tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE of about 600 tokens that has seen the demonstration's words too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=768, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([*texts, *(f"{row['instruction']} {row['output']}" for row in demo_rows(200))], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=256
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _new_model(tokenizer: Any) -> Any:
    """2 layers, 128 wide: every width a multiple of 64, as 4-bit blocks like it."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def _pretrain(tokenizer: Any, texts: list[str], steps: int, on_progress: Callable[[int, int], None]) -> Any:
    """Next-token prediction on random windows of all texts, one behind another."""
    import torch

    torch.manual_seed(SEED)
    model = _new_model(tokenizer)
    encoded = tokenizer(texts)["input_ids"]
    stream = torch.tensor([token for ids in encoded for token in [*ids, tokenizer.pad_token_id]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    window = torch.arange(LENGTH)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * (0.05 + 0.95 * (1 - step / steps))
        batch = stream[torch.randint(0, len(stream) - LENGTH, (ROWS, 1)) + window]
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        on_progress(step + 1, steps)
    return model.eval()


if __name__ == "__main__":
    make_demo_base(Path(sys.argv[1]), on_progress=lambda done, total: print(f"\r{done}/{total}", end="", flush=True))
    print()
