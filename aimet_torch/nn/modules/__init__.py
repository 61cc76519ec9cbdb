"""Operations as modules: one class for every function that a network may call."""
