"""Translates what is not translated yet, batch by batch, and keeps every finished batch."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cl2cm_jax.errors import UserError
from cl2cm_jax.translation.engine import Engine, Item
from cl2cm_jax.translation.provenance import Entry, Provenance, check_same_engine


class Outcome(NamedTuple):
    """What a job did."""

    translations: dict[Item, str]  # of every item if `is_complete`; in the order of the items
    before: int  # captions that were finished before
    sentences: int  # that the engine translated now
    is_complete: bool  # False if it was asked to stop


def translate_items(
    items: Sequence[Item],
    *,
    engine: Engine,
    provenance: Provenance,
    source: str,
    target: str,
    batch: int,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Translates `items`, equal sentences once where the engine allows.

    Batches are cut from all items, not from what is left: what an engine says may depend on a sentence's neighbours,
    and a run that was killed should end with the words of one that was not. A batch of which a kill kept a part is
    translated whole again, and only what is missing is added.

    Args:
      items: the captions.
      engine: translates them.
      provenance: has what was done before, and gets what is done now.
      source: language of the captions.
      target: language of the translations.
      batch: sentences between two saves.
      stop: asked before each batch; what is done is kept.
      report: called with the number of finished captions and of all.

    Raises:
      UserError: the engine failed, gave another number of translations than it got, or is not the one that began.
        Batches before are kept.
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
        if stop():
            break
        entries = _translated(part, engine, source=source, target=target, kept=provenance)
        entries = {item: entries[item] for item in missing}
        provenance.append(entries.values())
        finished |= entries
        sentences += len({entry.source if engine.by_sentence else item for item, entry in entries.items()})
        report(len(finished), len(items))
    translations = {item: finished[item].caption for item in items if item in finished}
    return Outcome(translations, before, sentences, len(finished) == len(items))


def _repeat(items: Sequence[Item], finished: dict[Item, Entry], provenance: Provenance) -> None:
    """Gives items whose sentence is translated already that translation; a kill may have parted equal sentences."""
    known = {entry.source: entry for entry in finished.values()}
    again = {item: known[item.text]._replace(image=item.name) for item in items if item.text in known}
    again = {item: entry for item, entry in again.items() if item not in finished}
    if again:
        provenance.append(again.values())
        finished |= again


def _translated(
    groups: Sequence[Sequence[Item]], engine: Engine, *, source: str, target: str, kept: Provenance
) -> dict[Item, Entry]:
    translations = engine.translate([group[0] for group in groups])
    if len(translations) != len(groups):
        raise UserError(
            f"{engine.name} ({engine.model}) gave {len(translations)} translations for {len(groups)} captions; "
            f"what was done before is kept in {kept.path}; mend the engine and run the same command again"
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
