"""Search: several completions of one prompt (particles) are decoded in parallel, weighed and resampled; one is returned.

The particles of a prompt are adjacent rows. Particle 0 draws the random numbers of a run without search.
"""
