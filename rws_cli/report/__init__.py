"""What a person sees of runs and of the numbers in analysis/.

On a terminal: terminal (a run, a plan), choices (rws list), compare, replay. In files: table (a sweep for a paper), pareto
(accuracy against cost), html with page/ and figures (rws report), which write puts in their places. What these share:
sheets (tables as cells), shown (runs with names and colors), colors.
"""
