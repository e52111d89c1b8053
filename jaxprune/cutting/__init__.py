"""Trees that mirror the variables come in with a keep; masked, smaller or full trees go out."""
