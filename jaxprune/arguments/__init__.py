"""What a caller hands over comes in; plain values, or errors that name the way out, go out."""
