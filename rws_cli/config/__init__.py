"""The configuration of a run: schema, composition, checks and identity."""
