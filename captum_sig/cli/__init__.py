"""The command line: arguments in, calls to the explainers, results out.

These modules import PyTorch and its kind inside functions, so that help, completion and usage
errors are immediate.
"""
