"""The app: commands around the book, and a demonstration on a real network.

``cli`` has the commands of ``python -m qcp_ref``, ``files`` and ``archive`` what they write and
read again, ``notebooks`` the tutorials, ``network`` the bundled network, ``demo`` the
demonstration.
"""

__all__: list[str] = []
