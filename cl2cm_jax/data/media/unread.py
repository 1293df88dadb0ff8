"""Files among pictures that are not read, and are named where they are passed over.

Only texts and what programs keep beside pictures are not worth a word; anything else may be a picture, a film or an
archive of them.
"""

from cl2cm_jax.data.media.images import SUFFIXES

_BESIDE = (
    "aae bib bridgesort cfg conf css csv ctl dat db db-shm db-wal dop exif gpx gz htm html icc icm ini ipynb js json "
    "jsonl kml ldb lnk log lock md md5 modd moff mpl on1 part pek pp3 py rst sfv sh sha256 sqlite srt tmp toml tsv txt "
    "url vtt webloc xmp xml yaml yml"
)
# besides hidden names: Synology, QNAP and NetApp, Windows, macOS, Android
_IGNORED = frozenset(
    {"@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb", "~snapshot"}
    | {"$recycle.bin", "recycler", "recycled", "system volume information", "lost+found", "lost.dir"}
    | {"__macosx", "network trash folder", "temporary items"}
)
_PREVIEWS = ".lrdata"  # folders of Lightroom
_SILENT = SUFFIXES | {f".{ending}" for ending in _BESIDE.split()}


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or a folder of thumbnails or of deleted files, by its name."""
    return name.startswith(".") or name.casefold() in _IGNORED or name.casefold().endswith(_PREVIEWS)


def is_unread(suffix: str) -> bool:
    """Whether files with this suffix, in lower case, "" of those without, are passed over and worth a word."""
    return suffix not in _SILENT


def unread_kind(suffix: str) -> str:
    """The suffix as it is named in a message."""
    return suffix or "without a suffix"
