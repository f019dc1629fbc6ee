"""The command line: ``zpyro train`` and its companions, one file a command."""
