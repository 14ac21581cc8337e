"""Dialogue: models tuned on conversations, and talking with them."""
