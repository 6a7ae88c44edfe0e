"""Search: several answers to one prompt (particles) are decoded side by side, weighed, copied, and one is returned.

Rows of one prompt are neighbors; row n of a prompt is its particle n mod particles, and particle 0 draws the random
numbers of a run without search.
"""
