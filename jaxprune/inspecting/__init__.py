"""A channel graph comes in; what it costs, holds and refuses goes out, as numbers and as text."""
