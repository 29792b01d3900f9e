"""Networks: ranks and bits under a budget, for one kernel and for all layers together.

Read in this order: ``jobs`` (many factorizations at a time, on threads or on any executor, with the
same results), ``frontier`` (rank and bits of one kernel: which choices are Pareto-optimal),
``allocation`` (bit allocation, or mixed precision: one choice per layer, so that the network stays
within a budget of bytes or bit operations).
"""
