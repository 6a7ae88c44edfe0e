"""What a person sees.

On a terminal: progress, terminal (a run, a plan), choices (rws list), compare, replay. In files: table (a sweep for a paper),
curves and pareto (accuracy against cost), html with page/ and figures (rws report), which write puts in their places. What
these share: sheets (tables as cells), shown (runs with names and colors), story (a decoding step by step), colors.
"""
