"""Reports: tables for the terminal, figures and HTML pages, with one module for each command.

The reports take rows and the run record as plain dicts and lists, and do not depend on models. The modules `rows`,
`tables` and `drawing` hold the parts that several reports share.
"""
