"""What people look at: tables for the terminal, figures and pages, one module a command.

Everything here takes rows and the run record as plain dicts and lists, and knows nothing of models. `rows`, `tables`
and `drawing` hold what several reports share.
"""
