"""A task and a method come in; a run on the disk goes out, which goes on after a kill."""
