"""Runs and run folders: preparing, decoding, recording, resuming and reading."""
