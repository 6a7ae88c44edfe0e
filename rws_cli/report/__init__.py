"""What a person sees of runs and of the numbers in analysis/.

On a terminal: terminal (a run, a plan), choices (rws list), compare, replay. In files: table (a sweep for a paper), pareto
(accuracy against cost), html and figures (rws report), push (a data set). What these share: sheets (tables as cells), shown
(runs with names and colors), colors, escape (text in Markdown, LaTeX and CSV), page/ (templates).
"""
