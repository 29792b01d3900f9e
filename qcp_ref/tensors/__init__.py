"""Tensors and how CP tensors are fitted to them: products, least squares, the SVD of a matrix.

Read in this order: ``tensor`` (unfolding, Khatri-Rao and MTTKRP), ``cp`` (CP tensors, also called
canonical polyadic decomposition or PARAFAC: scaling, signs, errors), ``sweep`` (the normal
equations that all solvers share), ``svd`` (matrices need no iteration), ``als`` (alternating least
squares).
"""
