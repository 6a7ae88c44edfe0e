"""The configuration of a run: its catalog and schema, composing, checking, and what identifies it."""
