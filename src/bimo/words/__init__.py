"""What the words of a text are: how often they occur, and which are used alike."""
