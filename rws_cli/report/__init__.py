"""Shows runs, and the numbers that analysis/ computes.

On a terminal: terminal (a run, a plan), compare, replay, watch. In files: table (a sweep for a paper), pareto (accuracy
against cost), html and figures (rws report), sweep, push (a data set). Shared: sheets (tables of text cells), runs (with
labels and colors), colors, escape (text in Markdown, LaTeX and CSV), page/ (templates).
"""
