"""How is an implementation run through the cases, whatever it does?

``process`` talks to it in a process of its own, whose program is ``worker``. ``report`` has the
results, ``session`` runs case after case, ``xfails`` are the failures that are known, and
``pytest_suite`` makes tests of the cases.
"""
