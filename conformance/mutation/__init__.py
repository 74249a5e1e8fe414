"""Changes the codecs one place at a time and asks whether vectors or tests notice."""
