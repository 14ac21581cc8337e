"""Models for other engines: written, opened again there, and compared with what was trained."""
