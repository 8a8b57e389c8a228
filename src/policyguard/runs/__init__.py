"""Runs over many images: project file, sources, baseline, engine, reports, the pytest plugin."""
