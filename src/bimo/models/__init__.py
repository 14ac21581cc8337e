"""Models: ids -> vectors -> logits. No text, no files, no optimizer."""
