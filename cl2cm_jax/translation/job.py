"""A resumable translation job: every finished batch is saved."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cl2cm_jax.errors import UserError
from cl2cm_jax.translation.engine import Engine, Item
from cl2cm_jax.translation.provenance import Entry, Provenance, check_same_engine


class Outcome(NamedTuple):
    """The result of a job."""

    translations: dict[Item, str]  # of all items if `is_complete`, in their order
    before: int  # captions translated by earlier runs
    sentences: int  # translated by this run
    is_complete: bool  # False if it was stopped


def translate_items(
    items: Sequence[Item],
    *,
    engine: Engine,
    provenance: Provenance,
    source: str,
    target: str,
    batch: int,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Translates the items that have no translation yet, equal sentences once if the engine allows it.

    Batches are formed from all items, not from the remaining ones: a translation may depend on the other sentences of
    its batch, and a killed run should end with the same result as one that was not. A batch that a kill left incomplete
    is translated again as a whole, and only the missing translations are added.

    The provenance has the translations of earlier runs and gets the new ones after every `batch` sentences. Before each
    batch `should_stop` is called, after it `on_progress` with the number of finished captions and of all.

    Raises:
      UserError: the engine failed, returned a wrong number of translations, or is not that of the earlier runs.
        Finished batches are kept.
    """
    finished = provenance.finished(items, source=source, target=target)
    check_same_engine(finished.values(), engine, path=provenance.path)
    before = len(finished)
    if engine.by_sentence:
        _repeat(items, finished, provenance)
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(item.text if engine.by_sentence else item, []).append(item)
    sentences, every = 0, list(groups.values())
    for start in range(0, len(every), batch):
        part = every[start : start + batch]
        missing = [item for group in part for item in group if item not in finished]
        if not missing:
            continue
        if should_stop():
            break
        translated = _translated(part, engine, source=source, target=target, provenance=provenance)
        entries = {item: translated[item] for item in missing}
        provenance.append(entries.values())
        finished |= entries
        sentences += len({entry.source if engine.by_sentence else item for item, entry in entries.items()})
        on_progress(len(finished), len(items))
    translations = {item: finished[item].caption for item in items if item in finished}
    return Outcome(translations, before, sentences, len(finished) == len(items))


def _repeat(items: Sequence[Item], finished: dict[Item, Entry], provenance: Provenance) -> None:
    """Reuses translations of equal sentences, of which a kill may have left some without."""
    known = {entry.source: entry for entry in finished.values()}
    again = {item: known[item.text]._replace(image=item.name) for item in items if item.text in known}
    again = {item: entry for item, entry in again.items() if item not in finished}
    if again:
        provenance.append(again.values())
        finished |= again


def _translated(
    groups: Sequence[Sequence[Item]], engine: Engine, *, source: str, target: str, provenance: Provenance
) -> dict[Item, Entry]:
    translations = engine.translate([group[0] for group in groups])
    if len(translations) != len(groups):
        raise UserError(
            f"{engine.name} ({engine.model}) gave {len(translations)} translations for {len(groups)} captions; "
            f"finished ones are kept in {provenance.path}; fix the engine, then run the same command again"
        )
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {
        item: Entry(
            image=item.name,
            language=target,
            caption=" ".join(text.replace("\0", " ").split()),
            source_language=source,
            source=item.text,
            engine=engine.name,
            model=engine.model,
            version=engine.version,
            date=today,
        )
        for group, text in zip(groups, translations, strict=True)
        for item in group
    }
