"""The app: a demonstration on a real network, around the book."""

__all__: list[str] = []
