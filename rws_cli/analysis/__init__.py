"""Numbers from records: of a response, of a run, of runs side by side. Nothing here is drawn or printed."""
