"""The command line: one small file a command; heavy imports stay inside the commands."""
