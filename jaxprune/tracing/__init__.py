"""A function comes in; its channel graph goes out."""
