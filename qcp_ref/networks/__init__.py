"""Networks: ranks and bits under a budget, for one kernel and for all layers together.

Read in this order: ``frontier`` (rank and width of one kernel, what is worth its cost),
``allocation`` (mixed precision: one choice per layer, so that the whole stays in a budget).
"""
