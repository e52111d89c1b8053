"""A graph and a keep come in; functions that run the network at the kept sizes go out."""
