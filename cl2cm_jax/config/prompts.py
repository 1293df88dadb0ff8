"""Prompts: text that stands before every caption and query, as some encoders were trained (`config.text.prompt`)."""

from __future__ import annotations

import re

from cl2cm_jax.errors import UserError

AUTO = "auto"  # the prompt that the model folder names, chosen when a run begins
TEXT = "{query}"  # in a prompt: the text itself
_PLACEHOLDER = re.compile(r"\{[^{}]{0,80}\}")


def check_prompt(prompt: str, *, source: str) -> None:
    """Refuses placeholders other than `TEXT`, and text after it, which would be cut off with a long text.

    Args:
      prompt: what stands before a text.
      source: the field or file that it comes from, for messages.

    Raises:
      UserError: it has one of these.
    """
    before = prompt.removesuffix(TEXT)
    unknown = next((found for found in _PLACEHOLDER.findall(before) if found != TEXT), None)
    if unknown is not None:
        raise UserError(
            f"{source}={prompt!r} has the placeholder {unknown}; {TEXT}, the text itself, is the only one: replace it"
        )
    if TEXT in before:
        raise UserError(f"{source}={prompt!r} goes on after {TEXT}, where a long text is cut; put {TEXT} at the end")


def before_text(prompt: str) -> str:
    """A prompt without `TEXT`: what is put before a text."""
    return prompt.removesuffix(TEXT)
