"""The chores of this repository, one command each; none of this is installed."""
