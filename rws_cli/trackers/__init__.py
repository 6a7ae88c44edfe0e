"""Trackers: libraries that also log runs, one file each."""
