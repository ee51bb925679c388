"""What `import nemo_demix` offers to programs: the search, a merge and a finished run, by the commands' own code."""
