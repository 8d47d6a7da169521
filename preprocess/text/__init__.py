"""Transcripts -> tokens, with what was said before them."""
