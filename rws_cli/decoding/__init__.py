"""The diffusion loop and the parts that plug into it: plain functions over tensors.

Shape suffixes: B rows, L positions of prompt and response, G positions of the response, N open (wanted) positions of
all rows together, in row-major order, V vocabulary.
"""
