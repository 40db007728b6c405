"""Chat templates for base models that bring none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BuiltIn:
    """A template of ours: `source` is Jinja, `tokens` are the special tokens that it writes, its end of a turn last.

    Without tokens of its own a turn ends with the tokenizer's end token.
    """

    source: str
    tokens: tuple[str, ...] = ()


# Tools are written as the Hermes and Qwen models do, so that servers which parse their calls parse these.
_CHATML = """\
{%- set first = messages[0] if messages else {} %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {{- first.content + '\\n\\n' if first.role == 'system' else '' }}
    {{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' }}
    {{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' + tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within ' }}
    {{- '<tool_call></tool_call> XML tags:\\n<tool_call>\\n' }}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- set function = call.function or call %}
            {{- '\\n' if message.content or not loop.first else '' }}
            {{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' }}
            {{- function.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_LLAMA3 = """\
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

_ZEPHYR = """\
{%- for message in messages %}
    {{- '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""

_PLAIN = """\
{%- for message in messages %}
    {{- '### ' + message.role | capitalize + ':\\n' + message.content }}
    {{- eos_token + '\\n\\n' if message.role == 'assistant' else '\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '### Assistant:\\n' }}
{%- endif %}
"""

BUILT_IN = {
    "chatml": BuiltIn(_CHATML, ("<|im_start|>", "<|im_end|>")),
    "llama3": BuiltIn(_LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "zephyr": BuiltIn(_ZEPHYR),
    "plain": BuiltIn(_PLAIN),
}


def source_of(name: str, *, writes_bos: bool) -> str:
    """The template, beginning with the BOS where the tokenizer starts every text with one."""
    return ("{{- bos_token }}\n" if writes_bos else "") + BUILT_IN[name].source
