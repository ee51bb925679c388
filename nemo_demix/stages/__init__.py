"""What each command does: decide what is missing, start ranks for it, and say what came out."""
