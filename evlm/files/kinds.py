"""What a file is, by its first bytes: for what no reader here takes, its name and what would help."""

from __future__ import annotations

_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "camera raw",
}
_STARTS = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG"),
    (b"\x1a\x45\xdf\xa3", "video"),
    (b"OggS", "video"),
    (b"FLV", "video"),
    (b"\0\0\x01\xba", "video"),
    (b"\x30\x26\xb2\x75", "video"),
    (b"G@", "video"),
)
_HELP = {
    "HEIC": "a HEIC picture needs the package pillow-heif: pip install pillow-heif",
    "JPEG XL": "a JPEG XL picture needs the package pillow-jxl-plugin: pip install pillow-jxl-plugin",
    "AVIF": "an AVIF picture needs Pillow 11.3 or newer: pip install -U pillow",
    "JPEG 2000": "a JPEG 2000 picture; convert it to PNG or TIFF first",
    "Photoshop": "a Photoshop document; export it as PNG or TIFF first",
    "OpenEXR": "an OpenEXR picture; convert it to a float TIFF first",
    "PDF": "a PDF document; render its page to PNG first",
    "PostScript": "a PostScript document; render it to PNG first",
    "SVG": "a drawing (SVG or XML); render it to PNG first",
    "camera raw": "a camera's raw file; develop it to TIFF, PNG or JPEG first",
    "video": "a video, where one picture is expected",
}
_OPTIONAL = {"HEIC": ("pillow_heif", "HEIF"), "JPEG XL": ("pillow_jxl", "JXL")}


def kind_of(head: bytes) -> str | None:
    """The name of what begins with these 64 bytes, of the kinds that need a word; None for others."""
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, len(head) - 3, 4))]
        named = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        if "AVIF" in named:  # a mif1 file is an AVIF where it says so further on
            return "AVIF"
        return named[0] if named else "video"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "video"
    if head[:4] in (b"II*\0", b"MM\0*") and head[8:10] == b"CR":
        return "camera raw"
    return next((name for start, name in _STARTS if head.lstrip().startswith(start)), None)


def is_hdr(start: bytes) -> bool:
    """Whether the beginning of an AVIF or HEIC file says that its numbers are PQ or HLG (ITU-T H.273)."""
    at = start.find(b"colrnclx")  # the colour box: primaries, transfer and matrix, two bytes each
    return at >= 0 and int.from_bytes(start[at + 10 : at + 12], "big") in (16, 18)


def unknown(head: bytes) -> str:
    """What there is to say of a file that begins with these 64 bytes, where no reader knows it."""
    if not head:
        return "the file is empty"
    if all(byte >= 32 or byte in b"\t\n\f\r" for byte in head):
        return "it is text"
    return f"a kind that is not known here, or cut off; it begins with {head[:8].hex(' ')}"


def advice(kind: str | None) -> str | None:
    """What helps with a file of this kind, or None."""
    return _HELP.get(kind) if kind else None


def optional_reader(kind: str | None) -> str | None:
    """The Pillow format of a kind that a package of the user's own reads, loaded; None where it is not there.

    HEIC and JPEG XL: their packages carry GPL code and are never required.
    """
    if kind not in _OPTIONAL:
        return None
    module, form = _OPTIONAL[kind]
    try:
        if module == "pillow_heif":
            import pillow_heif

            pillow_heif.register_heif_opener()
        else:
            import pillow_jxl  # noqa: F401  (it registers itself)
    except ImportError:
        return None
    return form
