"""Render the Markdown templates of the model card and the notices."""

from __future__ import annotations

from typing import Any

from cl2cm_jax.errors import not_installed


def check_installed() -> None:
    """Refuses to start without the packages that write the card; raises UserError with what to install."""
    try:
        import huggingface_hub  # noqa: F401
        import jinja2  # noqa: F401
    except ImportError as error:
        raise not_installed(error.name, run="pip install jinja2 huggingface_hub") from error


def render(template: str, **values: Any) -> str:
    """The text of `templates/TEMPLATE.md.j2` with these values."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cl2cm_jax.export"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(f"{template}.md.j2").render(values)
