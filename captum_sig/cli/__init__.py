"""The command line: arguments in, calls to the explainers, results out."""
