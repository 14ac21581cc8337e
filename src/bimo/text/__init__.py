"""Characters -> clean documents: read files of any kind, clean, drop repeats, split and store; cut words."""

from bimo.text.collect import collect_documents
from bimo.text.documents import Document, Rejected, describe_reason
from bimo.text.inventory import file_digests, source_digest
from bimo.text.options import TextOptions
from bimo.text.segment import WordList, iter_words, mark_words, segment, split_sentences, word_offsets
from bimo.text.sources import find_sources
from bimo.text.store import DocumentWriter, read_rejected, read_stored

__all__ = [
    "Document",
    "DocumentWriter",
    "Rejected",
    "TextOptions",
    "WordList",
    "collect_documents",
    "describe_reason",
    "file_digests",
    "find_sources",
    "iter_words",
    "mark_words",
    "read_rejected",
    "read_stored",
    "segment",
    "source_digest",
    "split_sentences",
    "word_offsets",
]
