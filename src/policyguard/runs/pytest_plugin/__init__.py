"""The pytest plugin: image fixtures, case files, recordings."""
