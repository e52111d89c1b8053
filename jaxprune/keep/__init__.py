"""Which channels stay comes in, in any form; checked masks, widths and JSON go out."""
