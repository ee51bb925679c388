"""One HTML page a run, from the records in its folder alone."""
