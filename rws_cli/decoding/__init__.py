"""The diffusion loop, and the functions over tensors that it is made of.

Shape suffixes: B rows; L positions of prompt and completion; G positions of the completion; N queried positions of all
rows together, in row-major order (n: a chunk of them); V vocabulary.
"""
