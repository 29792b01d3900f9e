"""How much do the cases see? Mutation testing of the suite itself.

``offences`` are the ways in which input has no meaning. ``plain`` and ``solvers`` are independent
implementations of all operations, which are right. Mutants of them are in ``catalogue``,
``solvers`` and ``careless``, other right variants in ``controls``. ``matrix`` runs all of them
through the cases: each mutant has to be killed, and no right variant may be accused.
"""
