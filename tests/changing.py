"""Files that are changed by chance, for readers that must refuse them with a sentence."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["change"]


def change(content: bytearray, place: int, patches: st.SearchStrategy[bytes], data: st.DataObject) -> None:
    """Overwrite, insert, remove or cut off something at a place."""
    patch = data.draw(patches)
    how = data.draw(st.sampled_from(["overwrite", "overwrite", "insert", "remove", "cut"]))
    if how == "overwrite":
        content[place : place + len(patch)] = patch
    elif how == "insert":
        content[place:place] = patch
    elif how == "remove":
        del content[place : place + len(patch)]
    else:
        del content[place:]
