"""Runs the fuzz targets of the members with atheris, on a corpus made of the vectors."""
