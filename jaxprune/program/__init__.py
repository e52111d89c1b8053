"""A traced program comes in; its arrays go out with the index space that every axis runs over."""
