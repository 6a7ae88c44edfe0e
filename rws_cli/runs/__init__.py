"""The run folder: manifest, records, resume, reading back."""
