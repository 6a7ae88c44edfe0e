"""Libraries that runs are also logged with, a file each."""
