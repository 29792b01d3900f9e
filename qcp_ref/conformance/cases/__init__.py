"""What is asked: test vectors with their exact expectations.

``truth`` says what is right, from the index loops on fractions (:mod:`qcp_ref.loops`). ``make`` puts
one case together. ``grids``, ``algebra``, ``layers``, ``integer``, ``solvers`` and ``rows`` are the
families of cases, and ``refused`` has the wrong inputs. ``vectors`` writes and reads the stored
files.
"""
