"""What a target may call, in the spelling that vLLM's server gives to templates: their text is part of the prompt.

Source: vllm/entrypoints/openai, `ChatCompletionToolsParam` and `FunctionDefinition`, whose dump is rendered.
"""

from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.messages import json_value, parsed, shown

_KEYS = ("name", "description", "parameters", "strict")


def tools_of(raw: Any, field: str, where: str) -> tuple[dict[str, Any], ...] | None:
    """Tools out of a list or its JSON text, with or without the envelope of type and function; None for no tools.

    Raises:
        InputError: for anything else, with `where` and what was expected.
    """
    raw = parsed(raw)
    if raw is None or raw in ([], ""):
        return None
    if not isinstance(raw, list):
        raise InputError(field, f'{where}: expected a list as "tools", got {shown(raw)}')
    return tuple(_tool(tool, field, where) for tool in json_value(raw, field, f'{where}: "tools"'))


def _tool(tool: Any, field: str, where: str) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InputError(
            field, f'{where}: expected tools with a "function" that has a "name" and "parameters", got {shown(tool)}'
        )
    if tool.get("type", "function") != "function":
        raise InputError(field, f'{where}: expected tools of type "function", got {shown(tool["type"])}')
    for key, kind in (("description", str), ("parameters", dict)):
        if not isinstance(function.get(key), kind | None):
            raise InputError(field, f"{where}: expected {key} of another type in a tool, got {shown(function[key])}")
    kept = {key: function.get(key) for key in _KEYS if key != "strict" or function.get(key) is not None}
    return {"type": "function", "function": kept}
