"""A run and a method come in; its networks go out: in rounds, by listed steps, at many widths."""
