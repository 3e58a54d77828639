"""The public functions: arguments checked, results named; the work is an operator of registration.py."""
