"""Prompts: the field, what model folders say of them, and where they reach."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import write_tiny_bert

from cl2cm_jax import config
from cl2cm_jax.errors import UserError
from cl2cm_jax.features import cache
from cl2cm_jax.features.encoders import text_encoder
from cl2cm_jax.main import _with_prompt
from cl2cm_jax.models.configured import configured_text, prompt_notes, text_prompt
from cl2cm_jax.models.files.prompts import FILE, read_prompts, usual_prompt
from cl2cm_jax.training.workdir import CONFIG_FILE, write_config

PROMPTS = {"prompts": {"query": "red: ", "document": "", "other": "car: "}}


def folder_of(folder: Path, content: dict[str, Any] | None = None) -> Path:
    write_tiny_bert(folder)
    if content is not None:
        (folder / FILE).write_text(json.dumps(content))
    return folder


def configured(folder: Path, **fields: Any) -> Any:
    changed = config.defaults()
    changed.text.backbone, changed.text.path, changed.text.max_tokens = "bert", str(folder), 8
    for name, value in fields.items():
        changed.text[name] = value
    return config.validate(changed)


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        (None, ""),
        ({}, ""),
        ({"prompts": None, "default_prompt_name": None}, ""),
        (PROMPTS, "red: "),
        (PROMPTS | {"default_prompt_name": "other"}, "car: "),
        (PROMPTS | {"default_prompt_name": "document"}, ""),
        ({"prompts": {"query": "red {query}"}}, "red "),
        ({"prompts": {"document": "text: "}}, ""),
    ],
)
def test_auto_is_what_the_folder_names(content: dict[str, Any] | None, prompt: str, tmp_path: Path) -> None:
    c = configured(folder_of(tmp_path / "model", content))
    assert c.text.prompt == "auto" and text_prompt(c) == prompt
    without = configured(tmp_path / "model", prompt="")
    assert text_prompt(without) == ""
    keys = {cache._key(one, None, (), decoding=1) for one in (c, without)}
    assert len(keys) == (2 if prompt else 1)  # of the cached features


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"prompts": ["query: "]}, "prompts is not an object"),
        ({"prompts": {"query": 1}}, "prompts is not an object"),
        ({"prompts": {"query": "a" * 5000}}, "over 4,096 characters"),
        ({"prompts": {}, "default_prompt_name": "query"}, "default_prompt_name='query' is not among its prompts"),
        ({"prompts": {"query": ""}, "default_prompt_name": ["query"]}, "is not among its prompts"),
        ({"prompts": {"query": "in {language}: "}}, r"has the placeholder \{language\}; \{query\}, the text itself"),
    ],
)
def test_a_folder_with_a_wrong_prompt_is_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_prompts("model", folder_of(tmp_path / "model", content))
    assert FILE in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("prompt", ["{foo}", "query: {}", "{query}: {text}", "say {query} again", "{query}{query}"])
def test_unknown_placeholders_are_refused(prompt: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.text\.prompt=.*(placeholder|goes on after)"):
        configured(tmp_path, prompt=prompt)


def test_the_text_may_be_named_at_the_end(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    one, other = (configured(folder, prompt=prompt) for prompt in ("red {query}", "red "))
    assert text_prompt(one) == text_prompt(other) == "red "
    tokens = [text_encoder(c, configured_text(c)).tokens(["car"]).ids.tolist() for c in (one, other)]
    assert tokens[0] == tokens[1]


def test_a_prompt_that_leaves_no_room_for_a_text_is_refused(tmp_path: Path) -> None:
    c = configured(folder_of(tmp_path / "model"), prompt="red red red red red ")
    assert text_encoder(c, configured_text(c)).room == 1
    c.text.prompt = "red red red red red red "
    with pytest.raises(UserError, match="max_tokens=8 leaves no room for a text after config.text.prompt='red red"):
        text_encoder(c, configured_text(c))


def test_what_is_said_of_the_prompt(tmp_path: Path) -> None:
    plain = folder_of(tmp_path / "plain")
    named = folder_of(tmp_path / "multilingual-e5-small")
    own = folder_of(tmp_path / "own", PROMPTS)
    assert prompt_notes(configured(plain)) == []
    [(level, line)] = prompt_notes(configured(own))
    assert level == logging.INFO and "'red: ' stands before every caption and query ('query' of" in line
    [(level, line)] = prompt_notes(configured(named, prompt="query: "))
    assert level == logging.INFO and line.endswith("(config.text.prompt)")
    [(level, line)] = prompt_notes(configured(named))
    assert level == logging.WARNING and "its authors put 'query: ' before queries" in line
    [(level, line)] = prompt_notes(configured(own, prompt=""))
    assert level == logging.WARNING and "its folder names 'red: '" in line
    e5 = config.defaults()
    e5.text.backbone = "e5_small"
    assert text_prompt(e5) == "" and prompt_notes(e5)[0][0] == logging.WARNING
    assert prompt_notes(config.defaults()) == []


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("intfloat/multilingual-e5-large", "query: "),
        ("models--intfloat--e5-base-v2", "query: "),
        ("intfloat/multilingual-e5-large-instruct", "Instruct: "),
        ("Qwen/Qwen3-Embedding-0.6B", "Instruct: "),
        ("BAAI/bge-small-en-v1.5", "Represent this"),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "query: "),
        ("Snowflake/snowflake-arctic-embed-m", "Represent this"),
        ("mixedbread-ai/mxbai-embed-large-v1", "Represent this"),
        ("BAAI/bge-m3", ""),
        ("sentence-transformers/LaBSE", ""),
        ("google/mt5-base", ""),
        ("models/cde5-small", ""),
    ],
)
def test_models_that_are_known_to_need_a_prompt(name: str, prompt: str) -> None:
    assert usual_prompt(name).startswith(prompt) and bool(usual_prompt(name)) == bool(prompt)


def test_a_run_keeps_the_prompt_that_it_began_with(tmp_path: Path) -> None:
    c = configured(folder_of(tmp_path / "model", PROMPTS))
    assert _with_prompt(c, tmp_path / "new", c.copy_and_resolve_references()).text.prompt == "red: "
    run = tmp_path / "run"
    run.mkdir()
    before = {name: value for name, value in config.flatten(c).items() if name != "text.prompt"}
    for saved, kept in ((before, ""), (before | {"text.prefix": "car: "}, "car: ")):  # of earlier versions
        write_config(run, saved)
        assert (run / CONFIG_FILE).is_file()
        assert _with_prompt(c, run, None).text.prompt == kept
    c.text.prompt = "blue {query}"
    assert _with_prompt(c, run, None).text.prompt == "blue "
