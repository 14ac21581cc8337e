"""Questions: passages of documents that may hold the answer, the piece of text that is it, and how sure that is."""
