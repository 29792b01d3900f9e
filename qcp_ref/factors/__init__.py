"""Factors on grids: from a float CP tensor to integer codes, by the paper's method and beyond it.

Read in this order: ``quantized`` (codes, scales, rounding), ``secular`` (the equation behind the
correction), ``epc`` (error-preserving correction), ``admm`` (one factor in a set), ``ao_admm`` (all
factors: the recipe of the paper), ``proofs`` (what rounding errors leave of a proof), ``descent``
(one code at a time), ``rows`` (closest vectors: Babai's nearest plane, which is GPTQ, the sphere
decoder), ``start`` (what the methods start from), ``search`` (simulated annealing on the codes,
certificates), ``methods`` (:func:`factorize` and its methods by name; 'best' is the default).
"""
