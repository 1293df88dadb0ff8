"""Suffixes of pictures, raw files and films that are not read, and are named where they are passed over."""

from cl2cm_jax.data.media.images import SUFFIXES

_ENDINGS = (
    "heic heif hif avif avifs jxl jp2 j2k jpx jpf jxr wdp tga psd psb xcf svg ico pcx ppm pgm pbm pnm hdr exr dds "
    "dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 raf pef srw x3f raw rwl iiq 3fr erf kdc dcr mos mrw gpr "
    "mov mp4 m4v avi mkv webm wmv mpg mpeg 3gp 3g2 mts m2ts flv ogv insv insp"
)
UNREAD = frozenset(f".{ending}" for ending in _ENDINGS.split()) - SUFFIXES
