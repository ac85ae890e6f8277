"""Answers on a page: files are dropped in a browser, read in processes that can be killed, and forgotten."""
