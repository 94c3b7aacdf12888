"""Messages as token ids: one place for the chat template and its options (paper, section 4: thinking disabled)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation with the generation prompt.

    A tokenizer without a chat template gets the messages' text as it is (records say so: chat_template "none").
    """
    if getattr(tokenizer, "chat_template", None):
        ids = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, enable_thinking=False, tokenize=True, return_dict=False
        )
        return list(ids)
    return list(tokenizer.encode("\n\n".join(m["content"] for m in messages)))
