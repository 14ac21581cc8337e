"""Printed pages, such as people have them."""

from __future__ import annotations

import io


def pdf(*pages: str, password: str = "") -> bytes:
    """A PDF with a line of Latin text per line of each page; empty pages stay empty."""
    import pypdf
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    font = DictionaryObject({NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1")})
    font[NameObject("/BaseFont")] = NameObject("/Helvetica")
    for page_text in pages:
        page = writer.add_blank_page(600, 800)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
        stream = DecodedStreamObject()
        shown = " ".join(f"({line}) Tj T*" for line in page_text.split("\n")) if page_text else ""
        stream.set_data(f"BT /F1 12 Tf 14 TL 50 700 Td {shown} ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()
