"""What a model says of prompts: its folder, in a file of sentence-transformers, and its authors, known by its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from cl2cm_jax.config.declarations import check_prompt
from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder

FILE = "config_sentence_transformers.json"
_QUERY = "query"  # sentence-transformers' name of the prompt of a search
_LONGEST = 4096  # characters, as of a field of the configuration
_RETRIEVE = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_REPRESENT = "Represent this sentence for searching relevant passages: "
# Part of a model's name -> what its card puts before a query; the first that matches.
_USUAL = {
    r"\be5-.*instruct": f"{_RETRIEVE} ",
    r"\be5-(small|base|large)": "query: ",
    r"\bqwen3-embedding": _RETRIEVE,
    r"\bbge-(small|base|large)-en": _REPRESENT,
    r"\bbge-(small|base|large)-zh": "为这个句子生成表示以用于检索相关文章：",
    r"\bembeddinggemma": "task: search result | query: ",
    r"\bnomic-embed-text": "search_query: ",
    r"\bsnowflake-arctic-embed-[ml]-v2": "query: ",
    r"\b(snowflake-arctic-embed|mxbai-embed-large)": _REPRESENT,
}


class Prompts(NamedTuple):
    """What is known of a model's prompt.

    Attributes:
      own: what its folder says that a text is given; "" if it says nothing.
      source: where it says so.
      usual: what its authors put before a query; "" if that is nothing or not known.
    """

    own: str = ""
    source: str = ""
    usual: str = ""


def read_prompts(path: str | Path, folder: Path) -> Prompts:
    """The prompts of a model folder; `path` is how the configuration names it.

    Of several prompts `default_prompt_name` chooses; otherwise it is that of a query, if there is one.

    Raises:
      UserError: the file is damaged, its default is not among its prompts, or the prompt has an unknown placeholder.
    """
    names = [str(path), *folder.resolve().parts[-3:]]  # of a hub id's folder the third from the end has the name
    if (folder / hub_folder.CONFIG).is_file():
        names.append(str(hub_folder.read_json(folder).get("_name_or_path") or ""))
    usual = usual_prompt(" ".join(names))
    if not (folder / FILE).is_file():
        return Prompts(usual=usual)
    content, problem = hub_folder.read_json(folder, FILE), f"model folder {folder}: {FILE}"
    prompts, chosen = content.get("prompts") or {}, content.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(one, str | None) for one in prompts.values()):
        raise UserError(f"{problem}: prompts is not an object of name -> text; correct it, or get a fresh copy")
    if chosen is not None and (not isinstance(chosen, str) or chosen not in prompts):
        raise UserError(
            f"{problem}: default_prompt_name={str(chosen)[:80]!r} is not among its prompts; correct it, or get a fresh "
            "copy"
        )
    name = _QUERY if chosen is None else chosen
    own = prompts.get(name) or ""
    if len(own) > _LONGEST or "\0" in own:
        raise UserError(f"{problem}: the prompt {name[:80]!r} has NUL or over {_LONGEST:,} characters; correct it")
    check_prompt(own, source=f"{problem}: prompts[{name[:80]!r}]")
    return Prompts(own=own, source=f"{name!r} of {FILE}", usual=usual)


def usual_prompt(name: str) -> str:
    """What the authors of a model put before a query, by its name; "" if that is nothing or not known."""
    return next((prompt for part, prompt in _USUAL.items() if re.search(part, name.lower())), "")
