"""Tools for the files of a stopped master: `python -m essaim_master.tools …`.

The command line calls them, since it may not import the masters' package.
"""
