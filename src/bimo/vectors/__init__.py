"""Word vectors: words of a text as points, near each other where they are used alike."""
