"""The commands of `freshet`, one file for each family."""
