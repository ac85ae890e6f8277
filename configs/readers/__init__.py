"""Strict readers of files from elsewhere, one for each form: YAML, JSON, CSV and npz.

What a reader refuses is an `UnreadableFile`, a `UserError` that names the file, the place and the remedy. Each reader
has bounds, so that a small file cannot fill the memory.
"""
