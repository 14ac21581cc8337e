"""The report and the model card: facts on disk in, pages for people out."""
